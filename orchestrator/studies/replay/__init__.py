"""Replays: strategies on recorded traces, without a model.

Recordings and their files, the simulated clock, experiments over many replays, the pilot, and the
engine `replay`. What a live job does belongs to `orchestrator.runtime`.
"""
