"""Any OpenAI-compatible server as an engine: the client, and the parser of its streams."""
