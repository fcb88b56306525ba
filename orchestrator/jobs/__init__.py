"""What lies on disk: job directories, journals and files of problems.

Belongs here: reading and writing. Does not belong here: what is made of the numbers
(`orchestrator.studies`).
"""
