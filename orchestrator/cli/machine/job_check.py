"""What `leadline doctor DIR` says of a job: whether its journal is sound, and what a repair made.

The one rule: without --repair nothing is written. Not covered: how a journal is examined and
repaired (`orchestrator.jobs.journal`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.cli.machine.doctor import Finding, State
from orchestrator.core.errors import PlanError
from orchestrator.jobs.journal import Examination, Repair, examination, repair
from orchestrator.jobs.journal.holder import held

_N_SHOWN = 3  # faults of one kind


def job_findings(directory: Path, mends: bool) -> Iterator[Finding]:
    """Yield what is wrong with a job's journal; a damaged one is repaired if `mends`."""
    path = directory / "journal.db"
    if not path.is_file():
        raise PlanError(f"{directory} has no journal.db; give the directory of a job")
    found = examination(path)
    if mends and found.is_broken:
        with held(directory):
            yield _repaired(repair(path, directory / "plan.json"))
        found = examination(path)
    yield from _examined(found, f"leadline doctor {directory} --repair")


def _examined(found: Examination, command: str) -> Iterator[Finding]:
    message = (
        f"{found.n_problems:,} problems, {found.n_traces:,} traces, {found.n_results:,} results"
    )
    if not found.is_broken and not found.damaged:
        yield Finding("journal", State.GOOD, message)
        return
    yield Finding("journal", State.NOTE, f"{message}, as far as it can be read")
    for fault in _shown(found.file_faults):
        yield Finding("file", State.BROKEN, fault, command)
    if found.n_stray:
        yield Finding(
            "rows", State.BROKEN, f"{found.n_stray:,} problems are not in its list", command
        )
    again = "run the job again: it tries the problem again, and keeps what can be read of it"
    for fault in _shown(found.damaged):
        yield Finding("row", State.BROKEN, fault, again)


def _shown(faults: tuple[str, ...]) -> Iterator[str]:
    yield from faults[:_N_SHOWN]
    if len(faults) > _N_SHOWN:
        yield f"and {len(faults) - _N_SHOWN:,} more"


def _repaired(done: Repair) -> Finding:
    message = (
        f"repaired: {done.n_problems:,} problems, {done.n_traces:,} traces and "
        f"{done.n_results:,} results are kept; the damaged file is {done.aside}"
    )
    remedies = []
    if done.n_again:
        remedies.append(f"the next run tries {done.n_again:,} problems again, with what is kept")
    if done.n_incomplete:
        remedies.append(f"{done.n_incomplete:,} results count traces that are lost")
    return Finding("journal", State.GOOD, message, "; ".join(remedies))
