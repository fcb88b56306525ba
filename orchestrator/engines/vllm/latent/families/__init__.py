"""Looped checkpoints that vLLM has no model of: their configurations, blocks and cores."""
