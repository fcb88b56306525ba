"""Strategies that search over partial solutions, or over attempts scored by a verifier."""
