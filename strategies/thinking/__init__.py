"""Strategies that shorten, lengthen or guide the thinking of a reasoning model.

Not here: strategies that stop whole attempts (`pruning`).
"""
