"""What is to be run: from a plan file, flags or Python to checked values.

Belongs here: names of plugins, keys, ranges, models as far as a plan speaks of them. Does not
belong here: anything that runs a plan.
"""
