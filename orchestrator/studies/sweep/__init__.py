"""Accuracy against depth and width: the surface, what a depth's votes are worth, and the plans that
follow.

How pools are sampled belongs to `orchestrator.studies.series`.
"""
