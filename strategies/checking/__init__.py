"""Strategies in which a model verifies candidates before the vote."""
