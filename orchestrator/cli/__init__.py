"""The command `leadline`: parses arguments, calls the library, prints the result.

Code that only a person at a terminal needs belongs here. Code that a script could also use belongs
in `orchestrator.studies` or `orchestrator.runtime`. No other package imports this one.
"""
