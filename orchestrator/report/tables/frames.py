"""The problems and attempts of a job as Arrow tables, for data frames and Parquet.

pyarrow is the extra `parquet` and is imported on use. pandas, Polars and DuckDB read its tables, so
none of them is needed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.report.scored import ScoredJob, read_scored
from orchestrator.report.tables.rows import Row, attempt_rows, columns, problem_rows

# Columns that may be empty in one job and not in another: their type never depends on the rows.
_TYPES = {
    "id": "string",
    "outcome": "string",
    "status": "string",
    "right": "bool",
    "answer": "string",
    "reference": "string",
    "prompt": "string",
    "messages": "string",
    "domain": "string",
    "votes": "string",
    "tied": "bool",
    "n_traces": "int64",
    "n_attempts": "int64",
    "n_failed": "int64",
    "n_cancelled": "int64",
    "n_dropped": "int64",
    "n_planned": "int64",
    "full_tokens": "float64",
    "stopped_by": "string",
    "seconds": "float64",
    "error": "string",
    "fingerprint": "string",
    "attempt": "int64",
    "state": "string",
    "key": "string",
    "text": "string",
    "thinking": "string",
    "reply": "string",
    "finish": "string",
    "purpose": "string",
    "model": "string",
    "depth": "int64",
    "note": "string",
}


@dataclass(frozen=True, slots=True)
class Frames:
    """The problems and the attempts of a job as `pyarrow.Table`, joined by the column `id`."""

    problems: Any
    attempts: Any

    def _repr_html_(self) -> str:
        """Return the sizes of both tables, as notebooks show them; numbers only."""
        sizes = (
            f"{table.num_rows:,} {name} in {table.num_columns} columns"
            for name, table in (("problems", self.problems), ("attempts", self.attempts))
        )
        return f"<div>{'; '.join(sizes)}</div>"


def frames(directory: str | Path, problems: str | Path = "") -> Frames:
    """Return the problems and attempts of a job directory as two Arrow tables.

    `problems` is a file with the reference answers, if they are not in the file that was run.
    `.to_pandas()` makes a table a pandas data frame, `polars.from_arrow` one of Polars. PlanError
    when there is no job, or pyarrow is missing.
    """
    _pyarrow()
    return frames_of(read_scored(directory, problems))


def frames_of(job: ScoredJob) -> Frames:
    """Return the tables of a job that was read."""
    return Frames(_table(problem_rows(job)), _table(attempt_rows(job)))


def _table(rows: Iterable[Row]) -> Any:
    pyarrow = _pyarrow()
    table = columns(rows)
    arrays = {
        name: pyarrow.array(values, type=_type(pyarrow, name, values))
        for name, values in table.items()
    }
    return pyarrow.table(arrays)


def _type(pyarrow: Any, name: str, values: list[Any]) -> Any:
    if name in _TYPES:
        return pyarrow.type_for_alias(_TYPES[name])
    known = [value for value in values if value is not None]
    if name == "traces" or any(isinstance(value, list) for value in known):
        return pyarrow.list_(pyarrow.int64())
    if any(isinstance(value, float) for value in known):
        return pyarrow.float64()
    return None if known else pyarrow.string()


def _pyarrow() -> Any:
    try:
        import pyarrow  # an extra; and a second to import
    except ImportError as error:
        raise PlanError(
            "tables need pyarrow: pip install 'leadline[parquet]'; "
            "`leadline export --to jsonl` and `--to csv` do without it"
        ) from error
    return pyarrow
