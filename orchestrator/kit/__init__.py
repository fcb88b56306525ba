"""What plugin authors build with, beside `orchestrator.core`: composition, prompts, prefixes,
verdicts, reading of answers. Pure.

Belongs here: what two or more plugins share. Does not belong here: what one plugin alone uses, and
anything that acts.
"""
