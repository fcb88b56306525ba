"""Running a job: connects sessions, engine, annotation, verification and journal.

Objects that exist only while a job runs belong here; analysis of finished jobs belongs in
`orchestrator.studies`, and files on disk in `orchestrator.jobs`.
"""
