"""Self-speculation: a model drafts tokens with fewer layers and verifies them with all of them.

`drafts` proposes and decides how many; `noise` samples what verifies them.
"""
