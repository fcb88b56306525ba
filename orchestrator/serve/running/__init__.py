"""What runs behind the protocol: the engine with its two entries, and the served problems."""
