"""What is to be run: from a plan file, flags or Python to checked values.

Belongs here: the names of plugins, keys and their ranges, and models as far as a plan describes
them. Does not belong here: anything that runs a plan, and what a job keeps of one.
"""
