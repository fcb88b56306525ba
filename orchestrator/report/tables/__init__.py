"""The problems and attempts of a job as rows: for JSON, data frames, exports and training."""
