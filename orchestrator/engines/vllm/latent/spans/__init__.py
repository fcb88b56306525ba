"""Depth batching: the iterations of a deep token are spread over several steps of the engine.

A step ends after as many iterations as `length` says; requests that are not done continue in the
next one, beside new tokens that begin. `scheduler` decides in the engine, `hooks` and `passes` run
it in the worker. docs/depth.md, section "Depth batching".
"""
