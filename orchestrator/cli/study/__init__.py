"""The commands that evaluate jobs, read answers, compare settings or fit parameters, one a module.

`orchestrator.studies` computes the numbers and `orchestrator.cli.view` displays them.
"""
