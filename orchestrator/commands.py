"""What each command of `leadline` does, once its arguments are parsed; each returns its exit code.

Results and tables go to the standard output, everything said on the way to the error stream. Errors that are meant for the user leave
as LeadlineErrors; `cli` prints them.
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

from orchestrator import auto, registry
from orchestrator.commission import PLAN_FILE, Commission, commission, record, recorded, require_same_file, require_unchanged
from orchestrator.core.errors import FleetError, JournalError, PlanError
from orchestrator.core.outcome import n_sampled
from orchestrator.core.plan import Plan
from orchestrator.core.types import Problem, Result, Status, Trace
from orchestrator.display import LiveView, PlainView, Screen, SilentView, View, one_line
from orchestrator.fleet import Fleet
from orchestrator.foreground import KeptEngine, Outcome, diverted, run_in_foreground
from orchestrator.jobs import Job, open_job
from orchestrator.journal import Journal
from orchestrator.planfile import LoadedPlan, load_plan
from orchestrator.problems import ProblemFile, read_problems
from orchestrator.rows import Format
from orchestrator.spelling import one_spec, spelled

ENGINE_LOG = "engine.log"
_N_NAMED = 3  # invalid rows that are named at the start


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command shows on its way."""

    every_seconds: float = 10.0
    quiet: bool = False
    as_json: bool = False
    debug: bool = False


def run(plan_file: str | None, flags: Mapping[str, str], limit: int, shown: Shown) -> int:
    """Run a job, or go on with it."""
    loaded = load_plan(plan_file, flags)
    if loaded.problems is None or loaded.out is None:
        raise PlanError("there is nothing to run: name a plan with a `problems` key, or give --problems FILE (see `leadline run --help`)")
    asked = commission(loaded.problems, limit, loaded.format)
    require_same_file(loaded.out, asked)
    return _run(loaded.out, _as_begun(loaded, loaded.out), loaded.fleet, asked, shown)


def _as_begun(loaded: LoadedPlan, directory: Path) -> Plan:
    """Return the plan with the choice that a job was begun with, where `auto` chose now and nothing else differs."""
    record = directory / PLAN_FILE
    if not loaded.chosen or not record.is_file():
        return loaded.plan
    with contextlib.suppress(PlanError):  # a record that does not load any more: the job refuses the new choice, saying what differs
        begun = load_plan(record).plan
        same = replace(loaded.plan, strategy=begun.strategy, selector=loaded.vote or begun.selector)
        if begun.strategy.name == auto.NAME and same == begun:
            return begun
    return loaded.plan


def resume(directory: str, flags: Mapping[str, str], shown: Shown) -> int:
    """Go on with a job from its directory."""
    path = Path(directory)
    asked = recorded(path)
    if asked is None:
        raise PlanError(f"{path} was begun from Python, or stopped before anything ran: run the same script or command again to go on")
    loaded = load_plan(path / PLAN_FILE, flags)
    require_unchanged(path, asked, loaded.plan)
    return _run(path, loaded.plan, loaded.fleet, asked, shown)


def _run(directory: Path, plan: Plan, fleet: Fleet, asked: Commission, shown: Shown) -> int:
    from orchestrator.evaluate import read_references
    from orchestrator.report_view import summary_table
    from orchestrator.summary import correctness, summarise, write_batch_output

    file = limited(read_problems(asked.problems, default_domain=plan.domain, domains=plan.domains), asked.limit)
    give_notice(file, shown)
    _say_choice(plan, shown)
    again = f"{program()} resume {shlex.quote(str(directory))}"
    with keeping(again), open_job(directory, plan, file.problems, file.invalid, file.order) as job:
        record(job, plan, fleet, asked)
        n_left = len(job.remaining())
        outcome = _execute(job, plan, fleet, _title(directory, file, n_left, plan, fleet), shown)
        done = not outcome.signal_number
        references = read_references(asked.problems) if done else {}
        right = correctness(job.results(), references, {p.id: p.domain for p in file.problems}, plan, fleet)
        wants_batch = asked.format == "openai-batch" or (asked.format == "auto" and file.format is Format.OPENAI_BATCH)
        summary = summarise(
            job,
            right,
            seconds=outcome.seconds,
            start_seconds=outcome.start_seconds,
            n_resumed=len(file.problems) - n_left,
            n_new_tokens=outcome.progress.output_tokens if outcome.progress else 0,
            batch_output=write_batch_output(job, plan) if wants_batch and done else None,
            interrupted=not done,
            chosen=auto.said(plan) or "",
        )
    if shown.as_json:
        print_json(summary)
    if not done:
        n_done = len(file.problems) - summary.n_open
        say(f"\nstopped: {n_done:,} of {len(file.problems):,} problems are done, and what else arrived is kept in {directory}")
        say(f"to go on: {again}")
        return outcome.exit_code
    if not shown.as_json and not shown.quiet:
        if sys.stdout.isatty():
            stdout().print()
        stdout().print(summary_table(summary))
    return 1 if summary.all_failed else 0


def limited(file: ProblemFile, limit: int) -> ProblemFile:
    """Return the first `limit` rows of a file (0: all). PlanError when none of them is a problem."""
    if not limit:
        return file
    order = file.order[:limit]
    kept = set(order)
    problems = tuple(p for p in file.problems if p.id in kept)
    if not problems:
        raise PlanError(f"none of the first {limit} rows is a problem; the first: {file.invalid[0].error}")
    return replace(file, problems=problems, invalid=tuple(r for r in file.invalid if r.problem_id in kept), order=order)


def solve(question: str, plan_file: str | None, flags: Mapping[str, str], show_traces: bool, shown: Shown) -> int:
    """Answer one question."""
    from orchestrator.report_view import print_traces, solution_table
    from orchestrator.summary import pool

    if not question.strip():
        raise PlanError("the question is empty")
    loaded = load_plan(plan_file, flags)
    plan, fleet = loaded.plan, loaded.fleet
    _say_choice(plan, shown)
    with contextlib.ExitStack() as stack:
        kept = "out" in flags
        directory = Path(flags["out"]) if kept else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leadline-")))
        job = stack.enter_context(open_job(directory, plan, [Problem("question", question, plan.domain)]))
        title = f"{one_line(question)} · {who(plan, fleet)}"
        outcome = _execute(job, plan, fleet, title, shown)
        results, traces = job.results(), sorted(pool(job.journal, "question"), key=lambda t: t.ordinal)
    if not results:
        say(f"\nstopped; {f'what arrived is kept in {directory}: the same command goes on' if kept else 'nothing is kept without --out'}")
        return outcome.exit_code
    [result] = results
    if shown.as_json:
        print_json({"question": question, "result": result, "traces": traces if show_traces else None, "seconds": outcome.seconds})
    else:
        console = stdout()
        if show_traces:
            print_traces(console, traces)
            console.rule(style="dim")
        console.print(solution_table(result, outcome.seconds or result.seconds))
    return 1 if result.status is Status.FAILED else 0


def evaluate(directory: str, problems: str | None, selectors: Sequence[str], ks: Sequence[int], as_json: bool) -> int:
    """Evaluate a job's journal."""
    from orchestrator.evaluate import read_references
    from orchestrator.report_view import points_table, rankings_table
    from orchestrator.summary import correctness, curve, pool, rankings

    path, fleet = Path(directory), Fleet()
    asked = recorded(path)
    specs = [one_spec("--selector", text) for text in selectors]
    journal = Journal(path / "journal.db")
    try:
        plan = msgspec.convert(msgspec.json.decode(journal.meta("plan") or "{}"), Plan)
        results, domains = _evaluated(journal, plan, asked)
        pools = {r.problem_id: pool(journal, r.problem_id) for r in results if r.status is not Status.INVALID}
    finally:
        journal.close()
    source = problems or (asked.problems if asked else "")
    if not source:
        raise PlanError(f"{path} was begun from Python and names no problem file; give the one with the reference answers: --problems FILE")
    references = {id: text for id, text in read_references(source).items() if id in domains}
    chosen = {spelled(spec): registry.load("selectors", spec) for spec in (plan.selector, *specs)}
    found = rankings(results, pools, chosen, lambda again: correctness(again, references, domains, plan, fleet))
    points = curve(pools, references, domains, ks, plan, fleet) if references else []
    notes = [f"{r.selector}: {r.n_failed:,} problems could not be voted on, e.g.: {one_line(r.error)}" for r in found if r.n_failed]
    notes += _cautions(results, pools, references, source)
    if as_json:
        print_json({"directory": directory, "selectors": found, "curve": points, "notes": notes})
        return 0
    console = stdout()
    console.print(Text(f"{path}: {len(results):,} results, {sum(map(len, pools.values())):,} traces", style="bold"))
    console.print(rankings_table(found))
    if points:
        console.print(points_table(points))
    for note in notes:
        console.print(Text(note, style="yellow"))
    return 0


def _evaluated(journal: Journal, plan: Plan, asked: Commission | None) -> tuple[list[Result], dict[str, str]]:
    """Return the results to evaluate, invalid rows included, and the domain of each problem."""
    results = {r.problem_id: r for r in journal.results()}
    domains = dict.fromkeys(results, plan.domain)
    if asked is None or not Path(asked.problems).is_file():
        return list(results.values()), domains
    file = limited(read_problems(asked.problems, default_domain=plan.domain, domains=plan.domains), asked.limit)
    domains |= {p.id: p.domain for p in file.problems if p.id in results}
    known = results | {r.problem_id: r for r in file.invalid}
    return [known[id] for id in file.order if id in known], domains


def _cautions(results: Sequence[Result], pools: Mapping[str, Sequence[Trace]], references: Mapping[str, str], source: str) -> Iterator[str]:
    if not references:
        yield f"{source} has no reference answers (`answer`) for these problems, so nothing can be said about accuracy."
    n_short = sum(r.n_full is not None and n_sampled(pools[r.problem_id]) < r.n_full for r in results if r.problem_id in pools)
    if n_short and references:
        yield (
            f"{n_short:,} problems were not sampled in full. Stopping early depends on the answers, so pass@k and maj@k of such pools are "
            "biased; take them from a job with the strategy 'consistency'."
        )


def plugins(name: str | None) -> int:
    """List plugins, or show one."""
    from orchestrator import plugin_view

    if name is not None:
        stdout().print(plugin_view.details(name))
        return 0
    table, sound = plugin_view.overview()
    stdout().print(table)
    return 0 if sound else 1


def doctor(deep: bool) -> int:
    """Check the installation."""
    from orchestrator import doctor as checks

    console = stdout()
    n_broken = 0
    for finding in checks.findings(deep):
        console.print(checks.drawn(finding))
        n_broken += finding.state is checks.State.BROKEN
    console.print(Text(f"\n{n_broken} broken" if n_broken else "\nnothing is broken", style="bold red" if n_broken else "bold green"))
    return 1 if n_broken else 0


def _execute(job: Job, plan: Plan, fleet: Fleet, title: str, shown: Shown) -> Outcome:
    """Run what remains of a job, showing it."""
    if not job.remaining():
        return Outcome(0.0, 0.0, 0, None, 0.0)
    with engine_log(job.directory, shown) as stream:
        return perform(job, plan, fleet, title, shown, stream)


def perform(job: Job, plan: Plan, fleet: Fleet, title: str, shown: Shown, stream: TextIO, kept: KeptEngine | None = None) -> Outcome:
    """Run what remains of a job, showing it on `stream`; on the kept engine if there is one."""
    console = Screen(file=stream, stderr=True)
    return run_in_foreground(job, plan, fleet, _view(console, stream, title, shown), console, kept)


@contextlib.contextmanager
def engine_log(directory: Path, shown: Shown) -> Iterator[TextIO]:
    """Keep what engines write in a file of this directory; yield the error stream as it was. A FleetError leaves with the file's name."""
    log = directory / ENGINE_LOG
    try:
        with contextlib.nullcontext(sys.stderr) if shown.debug else diverted(log) as stream:
            yield stream
    except FleetError as error:
        said = f"\nwhat the engine wrote is in {log}" if log.exists() else ""
        raise FleetError(f"{error}{said}") from error
    except OSError as error:
        raise JournalError(f"{log}: {error.strerror}; free some space or choose another job directory with --out") from error


def _view(console: Console, stream: TextIO, title: str, shown: Shown) -> View:
    if shown.quiet:
        return SilentView()
    if stream.isatty() and not console.is_dumb_terminal and not shown.debug:
        return LiveView(console, title)
    return PlainView(console, title, shown.every_seconds)


def program() -> str:
    """Return how this program is called: by its name alone where the shell finds it so."""
    called = sys.argv[0]
    found = shutil.which("leadline")
    plain = Path(called).name != "leadline" or (found is not None and Path(found).resolve() == Path(called).resolve())
    return "leadline" if plain else shlex.quote(called)


@contextlib.contextmanager
def keeping(again: str) -> Iterator[None]:
    """Let a FleetError of the block say how to go on."""
    try:
        yield
    except FleetError as error:
        raise FleetError(f"{error}\nwhat arrived is kept; when that is mended, go on with: {again}") from error


def _title(directory: Path, file: ProblemFile, n_left: int, plan: Plan, fleet: Fleet) -> str:
    n = len(file.problems)
    before = f", {n - n_left:,} of them done before" if n_left < n else ""
    return f"{directory} · {n:,} problems{before} · {who(plan, fleet)}"


def who(plan: Plan, fleet: Fleet) -> str:
    """Return what runs, in words."""
    strategy = f"auto: {spelled(auto.inner(plan))}" if plan.strategy.name == auto.NAME else spelled(plan.strategy)
    return f"{strategy} · {', '.join(m.path for m in plan.models.values())} on {fleet.engine.name}"


def _say_choice(plan: Plan, shown: Shown) -> None:
    """Say what `auto` chose."""
    choice = auto.said(plan)
    if choice and not shown.quiet:
        say(f"auto chose {choice}")


def give_notice(file: ProblemFile, shown: Shown) -> None:
    """Say what is odd about a problem file."""
    if shown.quiet:
        return
    for warning in file.warnings:
        say(f"note: {warning}")
    if file.invalid:
        n = len(file.invalid)
        say(f"{n:,} of {len(file.order):,} rows {'is no problem' if n == 1 else 'are no problems'}; the others run:")
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
