"""The commands that evaluate jobs, compare settings or fit what strategies use: a file each, with
its options and its action.

The numbers themselves are computed by `orchestrator.studies`, and drawn by `orchestrator.cli.view`.
"""
