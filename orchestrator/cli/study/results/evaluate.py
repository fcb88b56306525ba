"""`leadline eval`: evaluates a job against reference answers from its journal alone."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import print_json, results_console
from orchestrator.cli.inputs import required_references
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.study.results.options import by_option, problems_option
from orchestrator.cli.view.numbers import counted, one_line
from orchestrator.cli.view.results.jobs import tags_table
from orchestrator.cli.view.tables import points_table, rankings_table
from orchestrator.jobs.finished import domains_of, job_reader
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.spec_syntax import one_spec, spelled
from orchestrator.report.tags import accuracy_by_tag
from orchestrator.studies.evaluate import RightAnswers
from orchestrator.studies.summary import (
    Ranking,
    evaluate_job,
    failed_note,
    undecided_note,
    unreadable_notes,
)
from orchestrator.studies.sweep.surface import parse_counts


@click.command(name="eval")
@click.argument("directory", type=click.Path(), metavar="DIR")
@problems_option
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    metavar="NAME",
    help="Also vote with this selector; may be repeated.",
)
@click.option(
    "--ks",
    default="",
    metavar="K,K,...",
    help="Widths for pass@k and maj@k.  [default: powers of two]",
)
@by_option
@json_option
@debug_option
def evaluate(
    directory: str,
    problems: str,
    selectors: tuple[str, ...],
    ks: str,
    tags: tuple[str, ...],
    as_json: bool,
) -> int:
    """Evaluate a job against reference answers, from its journal alone: no engine is started.

    Prints the accuracy with its 95% interval, the accuracy of other selectors on the same traces,
    pass@k and maj@k, and the accuracy by tags of the problems. Options of a selector follow its
    name, separated by spaces.

    \b
    Examples:
      leadline eval runs/arithmetic
      leadline eval runs/arithmetic --selector "discounted slope=0.7" --ks 1,4,16
      leadline eval runs/arithmetic --problems answers.jsonl --by level
    """
    widths = parse_counts(ks, "--ks") if ks else ()
    specs = [one_spec("--selector", text) for text in selectors]
    with job_reader(Path(directory)) as reader:
        job = reader.outline()
        file, answers = job.problem_file(), job.reference_file(problems)
        domains = domains_of((id for id in job.digests if id in reader.concluded), file, job.plan)
        read = required_references(answers, domains, job.plan, Execution())
        loaded = {spelled(s): registry.load("selectors", s) for s in (job.plan.selector, *specs)}
        found = evaluate_job(reader, loaded, read.answers, domains, Execution())
    unreadable = [r.problem_id for r in read.unreadable]
    ranked, right = found.rankings(file, unreadable), found.right(file)
    by_tag = accuracy_by_tag(found.results(file), right, tags) if right or tags else []
    points = found.curve(file, widths)
    notes = [_fault_note(r, loaded[r.selector], found.metrics) for r in ranked if r.n_failed]
    notes += _doubts(ranked, directory)
    n_open = sum(p.id not in reader.concluded for p in file.problems) if file else 0
    unfinished = f"{counted(n_open, 'problem')} without a result yet, not counted" if n_open else ""
    notes += [note for note in (reader.damage, reader.growing, unfinished) if note]
    notes += _cautions(read.answers, answers, found.n_short)
    if as_json:
        notes += unreadable_notes(read, answers)
        print_json(
            {
                "directory": directory,
                "selectors": ranked,
                "curve": points,
                "tags": by_tag,
                "notes": notes,
            }
        )
        return 0
    title = f"{job.directory}: {ranked[0].report.n_results:,} results, {found.n_traces:,} traces"
    tables = [rankings_table(ranked)]
    tables += [points_table(points)] if points else []
    tables += [tags_table(by_tag)] if by_tag else []
    _print(title, tables, notes)
    return 0


def _print(title: str, tables: Iterable[Table], notes: Iterable[str]) -> None:
    console = results_console()
    console.print(Text(title, style="bold"))
    for table in tables:
        console.print(table)
    for note in notes:
        console.print(Text(note, style="yellow"))


def _doubts(ranked: Sequence[Ranking], directory: str) -> Iterator[str]:
    """Yield the notes on problems that failed, and on answers that could not be compared."""
    if note := failed_note(ranked[0].report):
        yield note
    doubts = {undecided_note(r.report, directory): r.selector for r in ranked}
    yield from (f"{selector}: {doubt}" for doubt, selector in doubts.items() if doubt)


def _fault_note(ranking: Ranking, selector: object, recorded: Collection[str]) -> str:
    """Return the note on the problems that a selector could not vote on, with the remedy."""
    missing = [name for name in registry.metrics(selector) if name not in recorded]
    n_failed = counted(ranking.n_failed, "problem")
    if missing:
        return (
            f"{ranking.selector}: {n_failed} could not be voted on, because the job did not record "
            f"{', '.join(missing)}; a job run with --selector {shlex.quote(ranking.selector)} does"
        )
    return f"{ranking.selector}: {n_failed} could not be voted on, e.g.: {one_line(ranking.error)}"


def _cautions(references: RightAnswers, answers: str, n_short: int) -> Iterator[str]:
    if not references:
        yield (
            f"{answers} has no reference answers (`answer`) for these problems, so their accuracy "
            "is unknown."
        )
    if n_short and references:
        yield (
            f"{counted(n_short, 'problem')} {'was' if n_short == 1 else 'were'} not sampled in "
            "full. Stopping early depends on the answers, so pass@k and maj@k of such pools are "
            "biased; use a job with the strategy 'consistency' instead."
        )
