"""Strategies that inspect running attempts and stop or drop some of them.

Not here: strategies that only decide how many attempts to start (`sampling`).
"""
