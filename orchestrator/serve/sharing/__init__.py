"""The engines of a running service for other commands: what `--server URL` uses, on both sides."""
