"""Studies of finished jobs and recordings: accuracy, sweeps, replays, ensembles, layers.

A study returns values and prints nothing. The command line writes tables and files.
`orchestrator.runtime` runs single jobs.
"""
