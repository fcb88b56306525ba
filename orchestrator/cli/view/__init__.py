"""What a person sees: the live view, tables, plots, and how numbers are written.

Drawing only: every number comes in, and nothing is computed, read or decided here.
"""
