"""The engines that complete requests, one folder per engine.

No engine is imported before a plan names it.

An engine imports its own libraries; `reply` turns what any of them returns into a checked trace.
"""
