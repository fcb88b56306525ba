"""`leadline replay`: strategies compared on recorded traces, without a model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from orchestrator.cli.console import message, print_json, results_console
from orchestrator.cli.options import EXIT_CODES, debug_option, json_option
from orchestrator.cli.view.replay import replay_tables
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.spec_syntax import several_specs, spelled
from orchestrator.studies.replay.experiment import Conditions, ReplayRow, ReplaySetting, play_all
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import Draw


@click.command(epilog=EXIT_CODES)
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="SOURCE...")
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="Replay this strategy; may be repeated.",
)
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    metavar="SPEC",
    help="Vote with this selector; may be repeated.  [default: the strategy's own]",
)
@click.option(
    "--seeds",
    "n_seeds",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Number of draws from the recorded traces.",
)
@click.option(
    "--draw",
    type=click.Choice(["shuffled", "recorded", "resampled"]),
    default="shuffled",
    show_default=True,
    help="Draw without replacement, in the order of recording, or with replacement.",
)
@click.option(
    "--domain",
    default="",
    metavar="NAME",
    help="Compare answers by this domain.  [default: equal texts; math for full texts]",
)
@click.option(
    "--problems",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="File with a job's reference answers, if not the file that was run.",
)
@click.option(
    "--probe-tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Tokens charged per probe.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Token budget of a problem.  [default: no limit]",
)
@click.option(
    "--job-tokens",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Tokens that all problems of a source share, as with budget.job_tokens.  [default: no "
    "limit]",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=Execution().window,
    show_default=True,
    metavar="N",
    help="With --job-tokens: largest number of requests at once.",
)
@click.option(
    "--processes",
    "n_processes",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Processes to use.  [default: one per core]",
)
@click.option(
    "--plot",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="Draw accuracy against tokens into this file (.png, .svg, .pdf).",
)
@json_option
@debug_option
def replay(
    sources: Sequence[str],
    strategies: Sequence[str],
    selectors: Sequence[str],
    n_seeds: int,
    draw: Draw,
    domain: str,
    problems: str,
    probe_tokens: int,
    max_tokens: int,
    job_tokens: int,
    window: int,
    n_processes: int,
    plot: str,
    as_json: bool,
) -> int:
    """Replay strategies on recorded traces, without a model.

    Prints accuracy against tokens, with 95% intervals over problems, and the critical path. A
    SOURCE is a job directory or a file of recorded traces (docs/replay.md). A SPEC is a name
    followed by options; if an option has several values, separated by commas, each is replayed.

    \b
    Examples:
      leadline replay runs/full --strategy "consistency n=1,2,4,8" --strategy "adaptive n=8"
      leadline replay 4B.json.gz 8B.json.gz --strategy "sounding risk=0.05,0.1,0.2" --plot
        frontier.svg
      leadline replay pool.json --strategy "consistency n=8" --selector majority --selector "best
        by=verdict:prm"
    """
    settings = _settings(strategies, selectors)
    recordings = [read_recording(source, domain, problems) for source in sources]
    for recording in recordings:
        for note in recording.notes:
            message(f"note: {recording.name}: {note}")
    conditions = Conditions(
        n_seeds, draw, probe_tokens, Budget(tokens=max_tokens), job_tokens, window
    )
    with replay_progress() as progress:
        rows = play_all(
            recordings,
            settings,
            conditions,
            n_processes,
            note=lambda text: message(f"note: {text}"),
            progress=progress,
        )
    by_source: dict[str, list[ReplayRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    titles = {source: _title(source, len(recordings), conditions) for source in by_source}
    if as_json:
        print_json([_document(row) for row in rows])
    else:
        for source, of_source in by_source.items():
            results_console().print(replay_tables(of_source, titles[source]))
    if plot:
        last = rows[-1].source
        _plot(by_source[last], Path(plot), titles[last])
    return 0


@contextlib.contextmanager
def replay_progress() -> Iterator[Callable[[int, int], None]]:
    """Show how much is done: a bar on a terminal, elsewhere a line for each tenth."""
    if sys.stderr.isatty():
        columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda n_done, n: bar.update(task, completed=n_done, total=n)
        return

    def line(n_done: int, n: int) -> None:
        if n_done * 10 // n > (n_done - 1) * 10 // n and n_done < n:
            message(f"replayed {n_done:,} of {n:,} parts")

    yield line


def _plot(rows: Sequence[ReplayRow], path: Path, title: str) -> None:
    try:
        from orchestrator.cli.view.plots import draw_plot
    except ImportError as error:
        raise PlanError(
            f"--plot needs matplotlib: pip install 'leadline[plot]' ({error})"
        ) from error
    draw_plot(rows, path, title)


def _settings(strategies: Sequence[str], selectors: Sequence[str]) -> list[ReplaySetting]:
    """Return every strategy with every selector, or with its own if no selector is named."""
    votes = [spec for text in selectors for spec in several_specs("--selector", text)]
    for vote in votes:
        registry.load("selectors", vote)
    settings = []
    for text in strategies:
        for spec in several_specs("--strategy", text):
            own = registry.own_selector(spec)  # loads the strategy, and so checks its options
            settings += [ReplaySetting(spec, vote) for vote in votes or [own]]
    return settings


def _title(source: str, n_sources: int, conditions: Conditions) -> str:
    name = f"all {n_sources} sources" if source == "all" and n_sources > 1 else source
    order = (
        "in the order of recording"
        if conditions.draw == "recorded"
        else f"{conditions.n_seeds:,} draws, {conditions.draw}"
    )
    probes = (
        f"{conditions.probe_tokens} tokens a probe" if conditions.probe_tokens else "probes free"
    )
    job = f" · {conditions.job_tokens:,} tokens for the job" if conditions.job_tokens else ""
    return f"{name} · {order} · {probes}{job}"


def _document(row: ReplayRow) -> dict[str, object]:
    document: dict[str, object] = msgspec.to_builtins(replace(row, units={}))
    del document["units"]
    setting = row.setting
    document["setting"] = {
        "strategy": spelled(setting.strategy),
        "selector": spelled(setting.selector),
    }
    return document
