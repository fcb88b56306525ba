"""How one vLLM engine starts: its resources on this machine (`host`), vLLM's own arguments."""
