"""How one vLLM engine starts: its resources on this machine (`host`), vLLM's own arguments
(`arguments`), its reasoning parser (`parsers`), and how its processes end (`guard`).
"""
