"""Self-speculation: a looped model drafts tokens at a smaller depth and verifies them at its own.

`drafts` proposes and decides how many; `noise` samples what verifies them.
"""
