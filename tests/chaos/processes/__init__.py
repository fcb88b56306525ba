"""Real processes of `leadline run`, ended by signals and by what their disk does."""
