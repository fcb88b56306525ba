"""Evaluation harnesses that run strategies in process: what they call in place of a server."""
