"""Strategies whose attempts build on earlier ones.

Not here: searches in which a verifier chooses the attempts to build on (`search`).
"""
