"""Replays: strategies on recorded traces, without a model.

This package contains recordings and their files, the simulated clock, experiments over many
replays, the pilot, and the engine `replay`. `orchestrator.runtime` runs live jobs.
"""
