"""The commands about this machine and this installation."""
