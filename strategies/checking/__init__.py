"""Strategies in which a model verifies attempts before the vote."""
