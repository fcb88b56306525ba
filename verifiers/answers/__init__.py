"""Domains, which read and compare answers of one kind; one module each.

Code that several domains share belongs in `orchestrator.kit.answers`.
"""
