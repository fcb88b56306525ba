"""Which layers a model runs, and in what order: think blocks and the search for an order.

Measured in plain PyTorch on few prompts. Serving such orders belongs to
`orchestrator.engines.vllm.latent`.
"""
