"""`leadline answers`: what is read in a text, and when two answers are one.

`command` is the command and collects the texts, `reader` reads and compares, and
`orchestrator.cli.view.answers` displays.
"""
