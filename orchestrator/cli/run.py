"""What each command of `leadline` does, once its arguments are parsed; each returns its exit code.

Results and tables go to the standard output, everything said on the way to the error stream. Errors
that are meant for the user leave as LeadlineErrors; `cli` prints them.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import msgspec
from rich.console import Console
from rich.text import Text

from orchestrator.cli.foreground import KeptEngine, Outcome, diverted, run_in_foreground
from orchestrator.cli.view.live import LiveView, PlainView, Screen, SilentView, View, one_line
from orchestrator.core.errors import EngineError, JournalError, PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result, Status, Trace
from orchestrator.core.votes import n_sampled
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.rows import Format
from orchestrator.jobs.source import (
    PLAN_FILE,
    JobSource,
    commission,
    record,
    recorded,
    require_same_file,
    require_unchanged,
)
from orchestrator.plan import auto, registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan, load_plan
from orchestrator.plan.spec_syntax import one_spec, spelled

ENGINE_LOG = "engine.log"
_N_NAMED = 3  # invalid rows that are named at the start


@dataclass(frozen=True, slots=True)
class DisplayOptions:
    """What a command shows on its way."""

    every_seconds: float = 10.0
    quiet: bool = False
    as_json: bool = False
    debug: bool = False


def read_plan(path: str | Path | None, flags: Mapping[str, str]) -> LoadedPlan:
    """Return a loaded plan, after a note for each former name that it uses."""
    loaded = load_plan(path, flags)
    for notice in loaded.notices:
        say(f"note: {notice}")
    return loaded


def run(plan_file: str | None, flags: Mapping[str, str], limit: int, shown: DisplayOptions) -> int:
    """Run a job, or go on with it."""
    loaded = read_plan(plan_file, flags)
    if loaded.problems is None or loaded.out is None:
        raise PlanError(
            "there is nothing to run: name a plan with a `problems` key, or give --problems FILE (see `leadline run --help`)"
        )
    asked = commission(loaded.problems, limit, loaded.format)
    require_same_file(loaded.out, asked)
    return _run(loaded.out, _as_begun(loaded, loaded.out), loaded.execution, asked, shown)


def _as_begun(loaded: LoadedPlan, directory: Path) -> Plan:
    """Return the plan with the choice that a job was begun with, where `auto` chose now and nothing
    else differs.
    """
    record = directory / PLAN_FILE
    if not loaded.chosen or not record.is_file():
        return loaded.plan
    # a record that does not load any more: the job refuses the new choice, saying what differs
    with contextlib.suppress(PlanError):
        begun = load_plan(record).plan
        same = replace(loaded.plan, strategy=begun.strategy, selector=loaded.vote or begun.selector)
        if begun.strategy.name == auto.NAME and same == begun:
            return begun
    return loaded.plan


def resume(directory: str, flags: Mapping[str, str], shown: DisplayOptions) -> int:
    """Go on with a job from its directory."""
    path = Path(directory)
    asked = recorded(path)
    if asked is None:
        raise PlanError(
            f"{path} was begun from Python, or stopped before anything ran: run the same script or command again to go on"
        )
    loaded = read_plan(path / PLAN_FILE, flags)
    require_unchanged(path, asked, loaded.plan)
    return _run(path, loaded.plan, loaded.execution, asked, shown)


def _run(
    directory: Path, plan: Plan, execution: Execution, asked: JobSource, shown: DisplayOptions
) -> int:
    from orchestrator.cli.view.tables import summary_table
    from orchestrator.studies.evaluate import read_references
    from orchestrator.studies.summary import correctness, summarise, write_batch_output

    file = limited(
        read_problems(asked.problems, default_domain=plan.domain, domains=plan.domains), asked.limit
    )
    give_notice(file, shown)
    _say_choice(plan, shown)
    again = f"{program()} resume {shlex.quote(str(directory))}"
    with keeping(again), open_job(directory, plan, file.problems, file.invalid, file.order) as job:
        record(job, plan, execution, asked)
        n_left = len(job.remaining())
        outcome = _execute(
            job, plan, execution, _title(directory, file, n_left, plan, execution), shown
        )
        done = not outcome.signal_number
        references = read_references(asked.problems) if done else {}
        right = correctness(
            job.results(), references, {p.id: p.domain for p in file.problems}, plan, execution
        )
        wants_batch = asked.format == "openai-batch" or (
            asked.format == "auto" and file.format is Format.OPENAI_BATCH
        )
        summary = summarise(
            job,
            right,
            seconds=outcome.seconds,
            start_seconds=outcome.start_seconds,
            n_resumed=len(file.problems) - n_left,
            n_new_tokens=outcome.progress.output_tokens if outcome.progress else 0,
            batch_output=write_batch_output(job, plan) if wants_batch and done else None,
            interrupted=not done,
            chosen=auto.description(plan) or "",
        )
    if shown.as_json:
        print_json(summary)
    if not done:
        n_done = len(file.problems) - summary.n_open
        say(
            f"\nstopped: {n_done:,} of {len(file.problems):,} problems are done, and what else arrived is kept in {directory}"
        )
        say(f"to go on: {again}")
        return outcome.exit_code
    if not shown.as_json and not shown.quiet:
        if sys.stdout.isatty():
            stdout().print()
        stdout().print(summary_table(summary))
    return 1 if summary.all_failed else 0


def limited(file: ProblemFile, limit: int) -> ProblemFile:
    """Return the first `limit` rows of a file (0: all).

    PlanError when none of them is a problem.
    """
    if not limit:
        return file
    order = file.order[:limit]
    kept = set(order)
    problems = tuple(p for p in file.problems if p.id in kept)
    if not problems:
        raise PlanError(
            f"none of the first {limit} rows is a problem; the first: {file.invalid[0].error}"
        )
    return replace(
        file,
        problems=problems,
        invalid=tuple(r for r in file.invalid if r.problem_id in kept),
        order=order,
    )


def solve(
    question: str,
    plan_file: str | None,
    flags: Mapping[str, str],
    show_traces: bool,
    shown: DisplayOptions,
) -> int:
    """Answer one question."""
    from orchestrator.cli.view.tables import print_traces, solution_table
    from orchestrator.studies.summary import pool

    if not question.strip():
        raise PlanError("the question is empty")
    loaded = read_plan(plan_file, flags)
    plan, execution = loaded.plan, loaded.execution
    _say_choice(plan, shown)
    with contextlib.ExitStack() as stack:
        kept = "out" in flags
        directory = (
            Path(flags["out"])
            if kept
            else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leadline-")))
        )
        job = stack.enter_context(
            open_job(directory, plan, [Problem("question", question, plan.domain)])
        )
        title = f"{one_line(question)} · {who(plan, execution)}"
        outcome = _execute(job, plan, execution, title, shown)
        results, traces = (
            job.results(),
            sorted(pool(job.journal, "question"), key=lambda t: t.ordinal),
        )
    if not results:
        say(
            f"\nstopped; {f'what arrived is kept in {directory}: the same command goes on' if kept else 'nothing is kept without --out'}"
        )
        return outcome.exit_code
    [result] = results
    if shown.as_json:
        print_json(
            {
                "question": question,
                "result": result,
                "traces": traces if show_traces else None,
                "seconds": outcome.seconds,
            }
        )
    else:
        console = stdout()
        if show_traces:
            print_traces(console, traces)
            console.rule(style="dim")
        console.print(solution_table(result, outcome.seconds or result.seconds))
    return 1 if result.status is Status.FAILED else 0


def evaluate(
    directory: str, problems: str | None, selectors: Sequence[str], ks: Sequence[int], as_json: bool
) -> int:
    """Evaluate a job's journal."""
    from orchestrator.cli.view.tables import points_table, rankings_table
    from orchestrator.studies.evaluate import read_references
    from orchestrator.studies.summary import correctness, curve, pool, rankings

    path, execution = Path(directory), Execution()
    asked = recorded(path)
    specs = [one_spec("--selector", text) for text in selectors]
    journal = Journal(path / "journal.db")
    try:
        plan = msgspec.convert(msgspec.json.decode(journal.meta("plan") or "{}"), Plan)
        results, domains = _evaluated(journal, plan, asked)
        pools = {
            r.problem_id: pool(journal, r.problem_id)
            for r in results
            if r.status is not Status.INVALID
        }
    finally:
        journal.close()
    source = problems or (asked.problems if asked else "")
    if not source:
        raise PlanError(
            f"{path} was begun from Python and names no problem file; give the one with the reference answers: --problems FILE"
        )
    references = {id: text for id, text in read_references(source).items() if id in domains}
    chosen = {spelled(spec): registry.load("selectors", spec) for spec in (plan.selector, *specs)}
    found = rankings(
        results,
        pools,
        chosen,
        lambda again: correctness(again, references, domains, plan, execution),
    )
    points = curve(pools, references, domains, ks, plan, execution) if references else []
    notes = [
        f"{r.selector}: {r.n_failed:,} problems could not be voted on, e.g.: {one_line(r.error)}"
        for r in found
        if r.n_failed
    ]
    notes += _cautions(results, pools, references, source)
    if as_json:
        print_json({"directory": directory, "selectors": found, "curve": points, "notes": notes})
        return 0
    console = stdout()
    console.print(
        Text(
            f"{path}: {len(results):,} results, {sum(map(len, pools.values())):,} traces",
            style="bold",
        )
    )
    console.print(rankings_table(found))
    if points:
        console.print(points_table(points))
    for note in notes:
        console.print(Text(note, style="yellow"))
    return 0


def _evaluated(
    journal: Journal, plan: Plan, asked: JobSource | None
) -> tuple[list[Result], dict[str, str]]:
    """Return the results to evaluate, invalid rows included, and the domain of each problem."""
    results = {r.problem_id: r for r in journal.results()}
    domains = dict.fromkeys(results, plan.domain)
    if asked is None or not Path(asked.problems).is_file():
        return list(results.values()), domains
    file = limited(
        read_problems(asked.problems, default_domain=plan.domain, domains=plan.domains), asked.limit
    )
    domains |= {p.id: p.domain for p in file.problems if p.id in results}
    known = results | {r.problem_id: r for r in file.invalid}
    return [known[id] for id in file.order if id in known], domains


def _cautions(
    results: Sequence[Result],
    pools: Mapping[str, Sequence[Trace]],
    references: Mapping[str, str],
    source: str,
) -> Iterator[str]:
    if not references:
        yield f"{source} has no reference answers (`answer`) for these problems, so nothing can be said about accuracy."
    n_short = sum(
        r.n_planned is not None and n_sampled(pools[r.problem_id]) < r.n_planned
        for r in results
        if r.problem_id in pools
    )
    if n_short and references:
        yield (
            f"{n_short:,} problems were not sampled in full. Stopping early depends on the answers, so pass@k and maj@k of such pools are "
            "biased; take them from a job with the strategy 'consistency'."
        )


def plugins(name: str | None, as_json: bool) -> int:
    """List plugins, or show one."""
    from orchestrator.cli.view import plugins as plugin_view

    plugins = plugin_view.summaries(name)
    if as_json:
        print_json(plugins)
    elif name is None:
        stdout().print(plugin_view.overview(plugins))
    else:
        stdout().print(plugin_view.details(name))
    return 1 if any(plugin.error for plugin in plugins) else 0


def doctor(deep: bool) -> int:
    """Check the installation."""
    from orchestrator.cli import doctor as checks

    console = stdout()
    n_broken = 0
    for finding in checks.findings(deep):
        console.print(checks.finding_lines(finding))
        n_broken += finding.state is checks.State.BROKEN
    console.print(
        Text(
            f"\n{n_broken} broken" if n_broken else "\nnothing is broken",
            style="bold red" if n_broken else "bold green",
        )
    )
    return 1 if n_broken else 0


def _execute(
    job: Job, plan: Plan, execution: Execution, title: str, shown: DisplayOptions
) -> Outcome:
    """Run what remains of a job, showing it."""
    if not job.remaining():
        return Outcome(0.0, 0.0, 0, None, 0.0)
    with engine_log(job.directory, shown) as stream:
        return perform(job, plan, execution, title, shown, stream)


def perform(
    job: Job,
    plan: Plan,
    execution: Execution,
    title: str,
    shown: DisplayOptions,
    stream: TextIO,
    kept: KeptEngine | None = None,
) -> Outcome:
    """Run what remains of a job, showing it on `stream`; on the kept engine if there is one."""
    console = Screen(file=stream, stderr=True)
    return run_in_foreground(
        job, plan, execution, _view(console, stream, title, shown), console, kept
    )


@contextlib.contextmanager
def engine_log(directory: Path, shown: DisplayOptions) -> Iterator[TextIO]:
    """Keep what engines write in a file of this directory; yield the error stream as it was.

    A EngineError leaves with the file's name.
    """
    log = directory / ENGINE_LOG
    try:
        with contextlib.nullcontext(sys.stderr) if shown.debug else diverted(log) as stream:
            yield stream
    except EngineError as error:
        said = f"\nwhat the engine wrote is in {log}" if log.exists() else ""
        raise EngineError(f"{error}{said}") from error
    except OSError as error:
        raise JournalError(
            f"{log}: {error.strerror}; free some space or choose another job directory with --out"
        ) from error


def _view(console: Console, stream: TextIO, title: str, shown: DisplayOptions) -> View:
    if shown.quiet:
        return SilentView()
    if stream.isatty() and not console.is_dumb_terminal and not shown.debug:
        return LiveView(console, title)
    return PlainView(console, title, shown.every_seconds)


def program() -> str:
    """Return how this program is called: by its name alone where the shell finds it so."""
    called = sys.argv[0]
    found = shutil.which("leadline")
    plain = Path(called).name != "leadline" or (
        found is not None and Path(found).resolve() == Path(called).resolve()
    )
    return "leadline" if plain else shlex.quote(called)


@contextlib.contextmanager
def keeping(again: str) -> Iterator[None]:
    """Let a EngineError of the block say how to go on."""
    try:
        yield
    except EngineError as error:
        raise EngineError(
            f"{error}\nwhat arrived is kept; when that is mended, go on with: {again}"
        ) from error


def _title(
    directory: Path, file: ProblemFile, n_left: int, plan: Plan, execution: Execution
) -> str:
    n = len(file.problems)
    before = f", {n - n_left:,} of them done before" if n_left < n else ""
    return f"{directory} · {n:,} problems{before} · {who(plan, execution)}"


def who(plan: Plan, execution: Execution) -> str:
    """Return what runs, in words."""
    strategy = (
        f"auto: {spelled(auto.chosen_strategy(plan))}"
        if plan.strategy.name == auto.NAME
        else spelled(plan.strategy)
    )
    return (
        f"{strategy} · {', '.join(m.path for m in plan.models.values())} on {execution.engine.name}"
    )


def _say_choice(plan: Plan, shown: DisplayOptions) -> None:
    """Say what `auto` chose."""
    choice = auto.description(plan)
    if choice and not shown.quiet:
        say(f"auto chose {choice}")


def give_notice(file: ProblemFile, shown: DisplayOptions) -> None:
    """Say what is odd about a problem file."""
    if shown.quiet:
        return
    for warning in file.warnings:
        say(f"note: {warning}")
    if file.invalid:
        n = len(file.invalid)
        say(
            f"{n:,} of {len(file.order):,} rows {'is no problem' if n == 1 else 'are no problems'}; the others run:"
        )
        for result in file.invalid[:_N_NAMED]:
            say(f"  {result.error}")
        if n > _N_NAMED:
            say(f"  and {n - _N_NAMED:,} more; all are in the results")


def stdout() -> Console:
    """Return a console for results."""
    return Screen(file=sys.stdout, highlight=False)


def say(text: str) -> None:
    """Write a line to the error stream."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_json(value: object) -> None:
    """Print a value as JSON on the standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
