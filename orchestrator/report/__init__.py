"""What came out of jobs: every problem and attempt with its outcome, as rows, tables and exports.

A finished job is joined with its references here (`scored`). Nothing is printed, and no engine is
started.
"""
