"""One running job: sessions, engine, annotation, verification and journal at work together.

Belongs here: what lives while a job runs. Does not belong here: what is asked of finished jobs
(`orchestrator.studies`).
"""
