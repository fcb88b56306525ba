"""The Python API: what scripts and notebooks call. `orchestrator` re-exports its public names.

It does in Python what the command line does in a shell, with the same plans, problem files and job
directories. Importing it loads neither an engine nor a display.
"""
