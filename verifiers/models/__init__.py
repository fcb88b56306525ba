"""Verifiers that ask models for a score, a module each."""
