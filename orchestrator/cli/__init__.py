"""The command `leadline`: parses arguments, calls what does the work, prints the result.

Belongs here: what only a person at a terminal needs. What a script could use as well belongs to
`orchestrator.studies` or `orchestrator.runtime`. No other package imports this one.
"""
