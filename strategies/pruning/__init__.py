"""Strategies that look at attempts while they run, and drop some."""
