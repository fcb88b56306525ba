"""The values of a problem and its exploration. Pure: the standard library only.

Nothing here reads a file, a clock or a model. What every other folder needs to speak of a problem,
a trace or a vote belongs here; what only authors of plugins need belongs to `orchestrator.kit`;
what acts belongs elsewhere.
"""
