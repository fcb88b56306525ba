"""The commands that compare settings or fit what strategies use, a module each."""
