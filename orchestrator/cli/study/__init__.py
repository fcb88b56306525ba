"""The commands that evaluate jobs, compare settings or fit parameters, each in one module.

`orchestrator.studies` computes the numbers and `orchestrator.cli.view` displays them.
"""
