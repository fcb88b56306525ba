"""The report of a finished job, kept in its directory, so that it need not be computed again.

The one rule: it is shown only as long as everything that it was computed from is the same: the
journal and the other files of the job, the problem file, the plan with its execution, and the code.
A file counts as the same only if it was not written or replaced since, so a copied job has no
report until its command has run once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import msgspec

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Status
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.job import versions
from orchestrator.jobs.source import JobSource, plan_text
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.studies.evaluate import References
from orchestrator.studies.summary import Summary

_NAME = "report.json"
_FILES = ("journal.db", "results.jsonl", "plan.toml", "batch_output.jsonl")
_PACKAGES = ("orchestrator", "strategies", "verifiers")


@dataclass(frozen=True, slots=True)
class KeptReport:
    """What a command prints about a finished job: notes on rows and references, and the summary."""

    rows: tuple[str, ...]
    references: tuple[str, ...]
    summary: Summary


@dataclass(frozen=True, slots=True)
class _File:
    digest: str
    report: msgspec.Raw


def keep_report(
    directory: Path, plan: Plan, execution: Execution, source: JobSource, report: KeptReport
) -> None:
    """Store the report of a job that no process uses; JournalError when the write fails."""
    again = replace(report, summary=_later(report.summary))
    file = _File(_digest(directory, plan, execution, source), msgspec.Raw(_encoded(again)))
    write_atomically(directory / _NAME, _encoded(file))


def kept_report(
    directory: Path, plan: Plan, execution: Execution, source: JobSource
) -> KeptReport | None:
    """Return the stored report; None if there is none or anything has changed since."""
    try:
        file = msgspec.json.decode((directory / _NAME).read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    log = directory / "journal.db-wal"  # what a running process has written
    is_settled = not log.exists() or not log.stat().st_size
    if not is_settled or file.digest != _digest(directory, plan, execution, source):
        return None
    return msgspec.json.decode(file.report, type=KeptReport)


def is_final(
    summary: Summary, references: References, domains: Mapping[str, str], plan: Plan
) -> bool:
    """Return whether a later run could only report the same: all is answered and compared.

    `domains` as in `read_references`. A domain that is not Leadline's own may change unnoticed.
    """
    report = summary.report
    specs = [plan.domains.get(name, PluginSpec(name)) for name in set(domains.values())]
    return (
        not summary.n_open
        and not summary.interrupted
        and not report.n_by_status[Status.FAILED]
        and not report.undecided
        and bool(references.answers) == (report.accuracy is not None)
        and all(_is_own(registry.plugin_class("domains", spec.name)) for spec in specs)
    )


def _later(summary: Summary) -> Summary:
    """Return the summary of a later run, which has nothing to do."""
    return replace(
        summary,
        report=replace(summary.report, wall_seconds=0.0),
        n_resumed=summary.report.n_results - summary.report.n_by_status[Status.INVALID],
        start_seconds=0.0,
        tokens_per_second=None,
        n_retries=0,
        paused_seconds=0.0,
        retry_reason="",
    )


def _is_own(plugin: type) -> bool:
    return plugin.__module__.partition(".")[0] in _PACKAGES


def _digest(directory: Path, plan: Plan, execution: Execution, source: JobSource) -> str:
    files = [_state(directory / name) for name in _FILES]
    text = plan_text(directory, plan, execution, source)
    parts = (files, source, text, versions(), list(_code()))
    return hashlib.blake2b(_encoded(parts), digest_size=16).hexdigest()


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes whenever a file is written or replaced; () without it."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _code() -> Iterator[tuple[str, int, int]]:
    """Yield the files of Leadline with their sizes and times: other code may report otherwise."""
    specs = filter(None, map(find_spec, _PACKAGES))
    folders = {Path(one).resolve() for s in specs for one in s.submodule_search_locations or ()}
    for path in sorted({path for folder in folders for path in folder.rglob("*.py")}):
        found = path.stat()
        yield str(path), found.st_size, found.st_mtime_ns


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value)
