"""Strategies whose attempts build on earlier ones.

Not here: searches in which a verifier decides what is built on (`search`).
"""
