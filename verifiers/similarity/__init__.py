"""Similarities: how likely two unfinished traces are to reach the same answer, a module each.

Beside them lies what they share: how texts are read (`texts`) and model files (`fitted`). Whoever
compares prefixes with them is a strategy; how good they are is `orchestrator.studies.similarity`'s.
"""
