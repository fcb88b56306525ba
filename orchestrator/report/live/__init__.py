"""The pages of a report, served: of jobs of any size, and while they run.

A process of its own (`indexer`) follows the journals and keeps a row for each problem in a
temporary file (`index`), from which a server (`app`, `serving`) answers. Nothing is written to a
job. The values are those of `report.page`.
"""
