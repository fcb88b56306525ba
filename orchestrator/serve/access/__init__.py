"""Who may ask, and for how much: keys with limits of their own."""
