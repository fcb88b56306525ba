"""Selectors: pure functions from a pool of traces to ranked answers; `core.votes` breaks ties.

Not here: a selector for the pools of a single strategy is next to that strategy.
"""
