"""The engines that complete requests, one folder per engine.

No engine is imported before a plan names it.

An engine imports its own libraries; `reply` converts every engine's replies to checked traces.
"""
