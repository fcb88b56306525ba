"""A fleet of engines in Ray actors, as one engine. The only folder that imports ray.

Any engine may stand in a replica: it is found by its name, never imported.
"""
