"""Strategies whose attempts build on earlier ones."""
