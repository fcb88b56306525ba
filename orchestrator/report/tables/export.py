"""Exports of a job to files: tables, OpenAI batch output, training data.

Every file is replaced as a whole or not at all. `rows`, `frames` and `training` have the contents.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.openai_batch import output_line, returned_attempts
from orchestrator.report.scored import ScoredJob
from orchestrator.report.tables.frames import frames_of
from orchestrator.report.tables.rows import Row, attempt_rows, columns, problem_rows
from orchestrator.report.tables.training import preference_rows, sft_rows

DIRECTORY = "export"  # below the job's, unless another is given
# As the Hub reads a folder: one configuration for each table.
_CARD = """---
configs:
- config_name: problems
  data_files: problems.parquet
  default: true
- config_name: attempts
  data_files: attempts.parquet
---

Problems and attempts of a Leadline job, joined by the column `id`.
"""


class ExportFormat(StrEnum):
    """What an export writes."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    HF = "hf"
    OPENAI_BATCH = "openai-batch"
    SFT = "sft"
    PREFERENCE = "preference"


def export(
    job: ScoredJob, kind: ExportFormat, directory: Path, per_problem: int = 0
) -> dict[Path, int]:
    """Write a job to files in `directory` and return them with their numbers of rows.

    `per_problem` limits the rows of training data for one problem; 0: no limit. PlanError when
    the format needs what is missing (pyarrow, references); JournalError when a write fails.
    """
    contents = dict(_contents(job, kind, per_problem))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(
            f"{directory}: {error.strerror}; choose another directory with --out"
        ) from error
    written = {}
    for name, (content, n) in contents.items():
        write_atomically(directory / name, content)
        written[directory / name] = n
    return written


def _contents(
    job: ScoredJob, kind: ExportFormat, per_problem: int
) -> Iterator[tuple[str, tuple[bytes, int]]]:
    if kind in (ExportFormat.PARQUET, ExportFormat.HF):
        tables = frames_of(job)
        yield "problems.parquet", _parquet(tables.problems)
        yield "attempts.parquet", _parquet(tables.attempts)
        if kind is ExportFormat.HF:
            yield "README.md", (_CARD.encode(), 0)
    elif kind is ExportFormat.CSV:
        yield "problems.csv", _csv(problem_rows(job))
        yield "attempts.csv", _csv(attempt_rows(job))
    elif kind is ExportFormat.JSONL:
        yield "problems.jsonl", _jsonl(problem_rows(job))
        yield "attempts.jsonl", _jsonl(attempt_rows(job))
    elif kind is ExportFormat.OPENAI_BATCH:
        yield "batch_output.jsonl", _jsonl(_batch_lines(job))
    elif kind is ExportFormat.SFT:
        yield "sft.jsonl", _jsonl(sft_rows(job, per_problem))
    else:
        yield "preference.jsonl", _jsonl(preference_rows(job, per_problem))


def _batch_lines(job: ScoredJob) -> Iterator[Row]:
    model = job.plan.models[job.plan.default_model].path
    for problem in job.problems:
        if problem.result is not None:
            attempts = returned_attempts(problem.pool, problem.result)
            yield output_line(problem.result, attempts, model)


def _jsonl(rows: Iterable[Row]) -> tuple[bytes, int]:
    lines = [msgspec.json.encode(row) + b"\n" for row in rows]
    return b"".join(lines), len(lines)


def _csv(rows: Iterable[Row]) -> tuple[bytes, int]:
    """Return rows as CSV with a header; None is an empty cell, a list is JSON."""
    table = columns(rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    n = 0
    for n, values in enumerate(zip(*table.values(), strict=True), start=1):  # noqa: B007 - n is the count
        writer.writerow(map(_cell, values))
    return text.getvalue().encode(), n


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list):
        return msgspec.json.encode(value).decode()
    return value


def _parquet(table: Any) -> tuple[bytes, int]:
    from pyarrow import parquet  # an extra; and a second to import

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue(), table.num_rows
