"""The commands that read what came out of jobs: `eval`, `show`, `compare`, `export`.

None of them starts an engine or changes a job.
"""
