"""Reads the inputs of commands before anything starts: plan, problem file and study directory.

Anything unusual in them is reported to the user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from glob import has_magic
from pathlib import Path
from typing import Any

from orchestrator.cli.console import message
from orchestrator.cli.options import DisplayOptions
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.jobs.openai_batch import pools_of_rows
from orchestrator.jobs.problems import ProblemFile, guess_notes, read_problems
from orchestrator.jobs.rows import Format, has_problem_suffix
from orchestrator.jobs.rows.examples import with_examples
from orchestrator.jobs.rows.stored import StoredDict
from orchestrator.jobs.source import JobSource, kept_copy
from orchestrator.plan import auto
from orchestrator.plan.check import row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan, load_plan
from orchestrator.plan.keys import Columns
from orchestrator.plan.spec_syntax import spelled
from orchestrator.runtime.api import blocking
from orchestrator.runtime.isolated_verifiers import check_isolated
from orchestrator.studies.evaluate import References
from orchestrator.studies.summary import references_in, require_readable, unreadable_notes

_N_NAMED = 3  # invalid rows that are named at the start


def read_plan(
    path: str | Path | None, flags: Mapping[str, str], served: dict[str, Any] | None = None
) -> LoadedPlan:
    """Return a loaded plan, after printing a note for each former name that it uses.

    `served` are the tables of the plan of a service whose engines are used (`load_plan`). PlanError
    when the plan cannot run, or a verifier does not load in its worker process.
    """
    if path is not None and has_problem_suffix(path):
        raise PlanError(
            f"{path} is not a plan, which is a TOML file; for problems: --problems {path}"
        )
    loaded = load_plan(path, flags, served)
    loaded = replace(loaded, plan=with_examples(loaded.plan))
    blocking(lambda: check_isolated(loaded.plan.verifiers))
    for notice in loaded.notices:
        message(f"note: {notice}")
    return loaded


def job_directory(loaded: LoadedPlan, verb: str) -> Path:
    """Return the job directory of a plan; PlanError when the plan names no problems."""
    if loaded.problems is None or loaded.out is None:
        raise PlanError(
            f"there is nothing to {verb}: name a plan with a `problems` key, or give "
            "--problems PLACE"
        )
    return loaded.out


def local_problems(loaded: LoadedPlan, directory: Path, limit: int = 0) -> tuple[LoadedPlan, Path]:
    """Return the plan with its problems as a local file, and that file.

    Problems from elsewhere, and those whose columns are mapped, are copied into the directory; of
    them the first `limit` if that is not 0.
    """
    assert loaded.problems is not None
    if isinstance(loaded.problems, str) or loaded.columns != Columns() or loaded.problems.is_dir():
        is_copied = True
    else:
        # what does not exist may be a pattern; else reading it says what is wrong
        is_copied = not loaded.problems.exists() and has_magic(str(loaded.problems))
    if not is_copied:
        return loaded, Path(loaded.problems)
    copy = kept_copy(loaded.problems, loaded.columns, directory, limit)
    for note in guess_notes(str(loaded.problems), copy.guesses):
        message(f"note: {note}")
    origin = str(loaded.problems)
    return replace(loaded, problems=copy.path, columns=Columns(), origin=origin), copy.path


def study_directory(loaded: LoadedPlan, flags: Mapping[str, str], name: str) -> Path:
    """Return the directory of a study: `--out`, or else the plan's job directory plus `-NAME`."""
    assert loaded.out is not None
    if "out" in flags:
        return loaded.out
    return loaded.out.with_name(f"{loaded.out.name}-{name}")


def first_problems(
    path: str | Path, plan: Plan, limit: int, begun: Collection[str] = ()
) -> ProblemFile:
    """Return the first `limit` rows of a problem file (0: all) and those begun, with the domain.

    For a study, which decides itself what differs: settings of single rows are left out.
    """
    file = read_problems(
        path, default_domain=plan.domain, domains=plan.domains, limit=limit, begun=begun
    )
    if file.format is not Format.OPENAI_BATCH:
        return file
    return replace(file, problems=tuple(replace(p, settings="") for p in file.problems))


def job_problems(
    source: JobSource, plan: Plan, execution: Execution, begun: Collection[str] = ()
) -> ProblemFile:
    """Return the rows of a job; one that asks for what plan or engine cannot honour is invalid."""
    return read_problems(
        source.problems,
        default_domain=plan.domain,
        domains=plan.domains,
        limit=source.limit,
        begun=begun,
        require=row_requirement(plan, execution),
        override=source.override,
        pools=pools_of_rows(plan.models),
    )


def report_rows(notes: Iterable[str], display: DisplayOptions) -> None:
    """Print the `row_notes` of a problem file."""
    for note in () if display.quiet else notes:
        message(note)


def row_notes(file: ProblemFile, begun: Collection[str] = ()) -> Iterator[str]:
    """Yield what is unusual about a problem file, in lines; `begun` are its job's problems."""
    for warning in file.warnings:
        yield f"note: {warning}"
    n_absent, first = _absent(begun, file.order)
    if n_absent:
        are = "problem of this job is" if n_absent == 1 else "problems of this job are"
        yield (
            f"note: {n_absent:,} {are} no longer in the file, {first!r} first; the traces "
            "are kept, and count again when the rows are back"
        )
    if not file.invalid:
        return
    n = len(file.invalid)
    yield f"{n:,} of {len(file.order):,} rows {'is' if n == 1 else 'are'} invalid; the others run:"
    for result in file.invalid[:_N_NAMED]:
        yield f"  {result.error}"
    if n > _N_NAMED:
        yield f"  and {n - _N_NAMED:,} more; all are in the results"


def _absent(begun: Collection[str], order: Iterable[str]) -> tuple[int, str]:
    """Return how many of the problems begun are not among the rows in `order`, and the first."""
    n = len(begun) and len(begun) - sum(id in begun for id in order)
    if not n:
        return 0, ""
    known = StoredDict[bool](bool)
    for id in order:
        known[id] = True
    return n, next(id for id in begun if id not in known)


def references_and_notes(
    path: str | Path, domains: Mapping[str, str], plan: Plan, execution: Execution
) -> References:
    """Return the references in a file, after printing a note on those that cannot be read."""
    references = references_in(path, domains, plan, execution)
    for note in unreadable_notes(references, path):
        message(f"note: {note}")
    return references


def required_references(
    path: str | Path, domains: Mapping[str, str], plan: Plan, execution: Execution
) -> References:
    """Return the references in a file, as above; PlanError when none of them can be read."""
    references = require_readable(references_in(path, domains, plan, execution), path)
    for note in unreadable_notes(references, path):
        message(f"note: {note}")
    return references


def report_choice(plan: Plan, display: DisplayOptions) -> None:
    """Print the choice of `auto`."""
    choice = auto.description(plan)
    if choice and not display.quiet:
        message(f"auto chose {choice}")


def run_name(plan: Plan, execution: Execution) -> str:
    """Return a title for a run, such as: adaptive n=16 · smollm2 on ray."""
    strategy = (
        f"auto: {spelled(auto.chosen_strategy(plan))}"
        if plan.strategy.name == auto.NAME
        else spelled(plan.strategy)
    )
    named = (m.path + (f" + {m.lora}" if m.lora else "") for m in plan.models.values())
    models = ", ".join(named)
    return f"{strategy} · {models} on {execution.engine.name}"
