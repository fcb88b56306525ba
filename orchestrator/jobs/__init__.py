"""What lies on disk: job directories, journals and files of problems.

Reading and writing them belongs here. What is computed from them belongs to `orchestrator.studies`,
and running a job to `orchestrator.runtime`.
"""
