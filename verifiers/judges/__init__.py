"""Judges: how likely two unfinished traces are to come to the same answer. One file a judge; they share how texts are read."""
