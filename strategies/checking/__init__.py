"""Strategies that let a model check candidates before the vote."""
