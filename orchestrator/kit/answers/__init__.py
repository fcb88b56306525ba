"""Reading replies: where one gives its answer, and what numbers, formulas and code it holds.

Pure text, in linear time. When two answers are the same is decided by the domains in
`verifiers/answers`.
"""
