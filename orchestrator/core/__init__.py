"""The pure core: types, the strategy algebra, sessions, votes. Standard library only."""
