"""A fleet of engines in Ray actors, as one engine. The only folder that imports ray."""
