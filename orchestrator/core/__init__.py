"""The values and the exploration of one problem. Pure: standard library only; nothing here reads a
file, a clock or a model.

Belongs here: what every other folder needs to speak of a problem, a trace or a vote. Does not
belong here: what only authors of plugins need (`orchestrator.kit`), and anything that acts.
"""
