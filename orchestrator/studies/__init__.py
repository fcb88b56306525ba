"""Questions over many jobs or recordings: accuracy, sweeps, replays, ensembles.

Returns values and prints nothing.
"""
