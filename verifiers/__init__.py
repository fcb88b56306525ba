"""Domains (how answers are read and compared) and verifiers (how traces are scored).

Each file stands alone on `orchestrator.core`.
"""
