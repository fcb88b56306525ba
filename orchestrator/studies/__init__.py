"""Questions over finished jobs and recordings: accuracy, sweeps, replays, ensembles, layers.

A study returns values and prints nothing; tables and files are the command line's. Running one job
belongs to `orchestrator.runtime`.
"""
