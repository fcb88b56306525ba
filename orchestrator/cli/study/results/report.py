"""`leadline report`: one HTML file that shows jobs, sweeps and replays."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator.cli.console import message, print_json
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.study.results.options import problems_option
from orchestrator.cli.view.numbers import counted
from orchestrator.core.errors import PlanError
from orchestrator.jobs.files import write_atomically
from orchestrator.report.page.document import read_document
from orchestrator.report.page.file import report_file

REPORT = "report.html"
MEGABYTES = 5.0


@click.command()
@click.argument("places", nargs=-1, required=True, type=click.Path(), metavar="DIR...")
@click.option(
    "--out", type=click.Path(), metavar="FILE", help="Where to write.  [default: DIR/report.html]"
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=1),
    default=MEGABYTES,
    show_default=True,
    metavar="N",
    help="Largest size of the file; longer texts are cut in their middle to stay below it.",
)
@problems_option
@json_option
@debug_option
def report(
    places: Sequence[str], out: str | None, megabytes: float, problems: str, as_json: bool
) -> int:
    """Write what came out of jobs to one HTML file that opens in any browser, offline.

    A DIR is the directory of a job or of a sweep, or a file with the output of `leadline replay
    --json`. Of several jobs, each is compared with the first one. The file shows accuracy, cost and
    failures; every problem with its votes, attempts and texts; what was dropped, by which rule and
    at which token; surfaces of sweeps and frontiers of replays.

    \b
    Examples:
      leadline report runs/arithmetic
      leadline report runs/plain runs/adaptive --out comparison.html
      leadline report runs/adaptive --megabytes 20
    """
    target = Path(out) if out else Path(places[0]) / REPORT
    if not out and not Path(places[0]).is_dir():
        raise PlanError(f"{places[0]} is no directory to write {REPORT} to; give --out FILE")
    title = ", ".join(Path(place).name for place in places)
    written = write_report(places, target, title, problems, megabytes)
    for note in written.notes:
        message(f"note: {note}")
    if as_json:
        numbers = {"bytes": written.n_bytes, "n_left_out": written.n_left_out}
        print_json({"file": str(target), **numbers})
    else:
        problems_of = counted(written.n_problems, "problem")
        click.echo(f"{target}: {problems_of}, {written.n_bytes / 1e6:.1f} MB")
    return 0


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """What was written to a report; `notes` are for the user."""

    n_problems: int
    n_bytes: int
    n_left_out: int
    notes: tuple[str, ...]


def write_report(
    places: Sequence[str | Path],
    target: Path,
    title: str,
    problems: str = "",
    megabytes: float = MEGABYTES,
) -> WrittenReport:
    """Write the report of these places to a file; `problems` is a file with the references."""
    document = read_document(places, problems)
    directories = [job.overview.directory for job in document.jobs]
    commands = [f"leadline show {shlex.quote(directory)}" for directory in directories]
    written = report_file(document, title, int(megabytes * 1e6), commands)
    content = written.text.encode()
    write_atomically(target, content)
    n = sum(len(job.problems) for job in document.jobs)
    cut = (
        f"{written.n_left_out:,} characters of long texts are left out; a larger --megabytes keeps "
        f"more, and {commands[0]} ID --thinking prints all"
        if written.n_left_out
        else ""
    )
    notes = (*document.notes, *filter(None, [cut]))
    return WrittenReport(n, len(content), written.n_left_out, notes)
