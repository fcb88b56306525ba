"""Processes that can be killed: `pool` starts and kills them, `child` is what runs in them.

Nothing is re-exported here: a child imports this package, and must start fast.
"""
