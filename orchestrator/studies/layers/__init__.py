"""Choosing layers: where a frozen model's think block may lie (`probe`), and which order of layers
suits a task (`search`).
"""
