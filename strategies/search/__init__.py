"""Strategies that search over steps or attempts."""
