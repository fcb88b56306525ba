"""Verifiers that query models for a score, one module each.

Code that several of them share belongs in `orchestrator.kit.model_verifier`.
"""
