"""Job directories, journals and files of problems on disk.

Reading and writing them belongs here. Computing results from them belongs in
`orchestrator.studies`, and running a job in `orchestrator.runtime`.
"""
