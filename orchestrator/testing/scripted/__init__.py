"""What the checks run plugins on: handmade traces (`pools`) and explorations without an engine."""
