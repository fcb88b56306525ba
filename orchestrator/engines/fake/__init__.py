"""A deterministic engine without a model, for tests, dry runs, documentation and benchmarks."""
