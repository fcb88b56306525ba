"""Similarities: how likely two unfinished traces are to reach the same answer; one module each.

They share the modules `texts` (reading texts) and `fitted` (model files). Strategies use them to
compare prefixes; `orchestrator.studies.similarity` measures their quality.
"""
