"""Reading: where a reply states its answer, and what numbers, formulas and programs it holds. Pure
text.

What makes two answers equal belongs to the domains in `verifiers/answers`.
"""
