"""The formats that rows are read from: text (JSONL, JSON), cells (CSV, TSV), Arrow and Parquet."""
