"""What completes requests: one folder an engine. None is imported before a plan asks for it by
name.

An engine imports its own libraries; `reply` turns what any of them returns into a checked trace.
"""
