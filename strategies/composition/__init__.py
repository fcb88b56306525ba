"""Strategies made of other strategies, which are their parts."""
