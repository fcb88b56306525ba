"""Layer schedules: which layers a model runs, and in which order.

Think blocks, and the search for an order, measured in plain PyTorch on few prompts.
`orchestrator.engines.vllm.latent` serves such orders.
"""
