"""Sweeps of accuracy over depth and width: the surface, the value of votes per depth, the plans.

`orchestrator.studies.sweep.series` samples the pools.
"""
