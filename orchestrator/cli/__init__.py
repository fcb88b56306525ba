"""The command `leadline`: parses arguments, calls what does the work, prints what came out.

Belongs here: everything that only a person at a terminal needs. Nothing below imports it.
"""
