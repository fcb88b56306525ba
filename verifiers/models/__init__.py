"""Verifiers that query models for a score, a module each.

What several of them share belongs in `orchestrator.kit.model_verifier`.
"""
