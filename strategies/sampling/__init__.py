"""Strategies that only decide how many attempts to start, and at which depth or model."""
