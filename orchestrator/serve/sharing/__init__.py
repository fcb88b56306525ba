"""The engines of a running service for other commands, which find it or name it: both sides."""
