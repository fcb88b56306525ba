"""`leadline depth`: which layers a model runs, in which order, and when its tokens stop.

`probe` has the group and its command, `search` and `calibrate` the other commands.
"""
