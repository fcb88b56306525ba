"""Verifiers that run code: the user's own function, and a trace's program against tests.

The user's function is trusted but may hang: it runs in a worker process of the runtime. A program
that a model wrote is not trusted at all, and runs in `sandbox`.
"""
