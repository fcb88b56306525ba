"""The traces of one problem in a job directory."""

from __future__ import annotations

import warnings
from pathlib import Path

from orchestrator.core.values import Trace
from orchestrator.core.votes import pruned
from orchestrator.jobs.journal import Journal


def traces(directory: str | Path, problem_id: str) -> list[Trace]:
    """Return one problem's traces from a job directory, by ordinal, for inspection or another vote.

    Dropped traces are left out once the problem has its result. Of a damaged journal, those that
    can be read are returned, with a warning that names the others.
    """
    with Journal.for_reading(Path(directory) / "journal.db") as journal:
        result, arrived, faults = journal.readable(problem_id)
    if faults:
        warnings.warn(
            f"{len(faults)} rows of problem {problem_id!r} cannot be read and are left out; the "
            f"first: {faults[0]}",
            stacklevel=2,
        )
    return sorted(
        pruned(arrived, result.dropped if result else {}), key=lambda trace: trace.ordinal
    )
