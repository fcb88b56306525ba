"""The pages of a report as values: overview, table of problems, one problem, and studies.

The values here are what `leadline report` writes into its file, as JSON, and what its pages show.
Nothing is guessed: what became of an attempt comes from the replayed session. Not covered: how a
page looks (`web/` in the repository).
"""
