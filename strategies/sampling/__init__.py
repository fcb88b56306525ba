"""Strategies that decide how many attempts to start, and with which model or latent depth.

Not here: strategies that inspect running attempts (`pruning`) or build on earlier ones.
"""
