"""Files and batches: each batch is a job directory, so that a kill at any moment loses nothing."""
