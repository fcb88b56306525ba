"""One running job: sessions, engine, annotation, verification and journal at work together.

What lives while a job runs belongs here; questions about finished jobs are for
`orchestrator.studies`, and what lies on disk is for `orchestrator.jobs`.
"""
