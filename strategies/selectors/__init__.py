"""Selectors: pure functions from a pool of traces to ranked clusters of answers."""
