"""Built-in strategies and selectors, one file an idea. They import `orchestrator.core` and nothing else of ours, and never each other."""
