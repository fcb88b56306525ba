"""The user's view: live progress, tables, plots, and the format of numbers.

Display only: callers pass every number, and nothing is computed, read or decided here.
"""
