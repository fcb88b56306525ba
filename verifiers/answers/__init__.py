"""Domains: how answers of one kind are read and compared, a module each.

What several domains share belongs in `orchestrator.kit.answers`.
"""
