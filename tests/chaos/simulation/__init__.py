"""Whole jobs under one seeded scheduler, with faults and kills, thousands of histories a minute.

Driver, sessions, journal and the job directory are the real ones; the engine's replies are those of
the fake engine. Simulated are time, the order in which things happen, and what fails.
"""
