"""Engines: what completes requests. One module each; none is imported before a plan asks for it by name."""
