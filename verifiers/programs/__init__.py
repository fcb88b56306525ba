"""Verifiers that run code: the user's own function, and a trace's program against tests.

The user's function is trusted but may hang, so it runs in a worker process of the runtime. A
program written by a model is untrusted and runs in `sandbox`.
"""
