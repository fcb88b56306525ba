"""Plugins for Leadline, as a stranger would write them."""
