"""Plans and executions: from a plan file, flags or Python to checked values.

Belongs here: the names of plugins, keys and their ranges, and models as far as a plan describes
them. Does not belong here: code that runs a plan, or a job's record of it.
"""
