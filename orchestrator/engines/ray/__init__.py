"""A fleet of engines in Ray actors, as one engine. The only folder that imports ray.

A replica can run any engine: engines are looked up by name, never imported.
"""
