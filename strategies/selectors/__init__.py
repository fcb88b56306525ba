"""Selectors: pure functions from a pool of traces to answers, ranked. Ties are `core.votes`'s.

Not here: a selector that reads the pools of one strategy alone stands beside that strategy.
"""
