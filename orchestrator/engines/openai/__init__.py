"""Any OpenAI-compatible server as an engine: the client, and the reading of what it streams."""
