"""The OpenAI protocol: what requests say, and how replies look. No engine, no HTTP connection."""
