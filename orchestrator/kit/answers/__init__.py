"""Reading replies: apart from thinking, finding the answer, numbers, formulas and code in a text.

Pure text processing in linear time. The domains in `verifiers/answers` decide when two answers are
the same.
"""
