"""The views of `leadline show` (`problems`) and `leadline compare` (`jobs`); display only."""
