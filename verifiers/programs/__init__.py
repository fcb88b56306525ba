"""What checks a trace by running code: the user's own function, and a program against tests.

The user's function is trusted and may hang; a program that a model wrote is not trusted at all, and
runs in `sandbox`.
"""
