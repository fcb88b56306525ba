"""Accuracy against depth and width: the surface, the worth of a depth's votes, the plans.

How pools are sampled belongs to `orchestrator.studies.series`.
"""
