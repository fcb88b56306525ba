"""Where a running job is reported to: its events (`events`), their delivery (`delivery`), and one
file for each built-in sink.

A sink is a plugin, found by its entry point. Nothing here decides an answer, and nothing that a
sink does can hold up or fail a job.
"""
