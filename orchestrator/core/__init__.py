"""The values of a problem and its exploration. Pure: the standard library only.

Nothing here reads a file, a clock or a model. The types that every other folder needs to describe
a problem, a trace or a vote belong here. Helpers that only plugin authors need belong in
`orchestrator.kit`; code that performs I/O belongs elsewhere.
"""
