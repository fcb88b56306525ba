"""`leadline demo`: the report of jobs that were recorded with a shipped model.

They are in `jobs.zip`, which examples/record_demo.sh makes: a search, a pruned job and a sweep, of
puzzles of examples/fathom.toml. Nothing here starts an engine.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import click

from orchestrator.cli.options import debug_option
from orchestrator.cli.study.results.report import REPORT, write_report
from orchestrator.core.errors import PlanError

_JOBS = ("pruned", "search", "sweep")


@click.command()
@click.option(
    "--out",
    default="runs/demo",
    show_default=True,
    type=click.Path(),
    metavar="DIR",
    help="Where the recorded jobs and their report are written.",
)
@debug_option
def demo(out: str) -> int:
    """Write the report of recorded jobs, and open it in a browser if there is a display.

    The jobs are answers of the model `fathom` to 24 puzzles: a pruned job, a search, and a sweep
    over depth and width. They are jobs like any other, so `leadline show`, `eval`, `compare` and
    `replay` read them, too.

    \b
    Examples:
      leadline demo
      leadline demo --out demo
    """
    directory = Path(out)
    _unpack(directory)
    target = directory / REPORT
    write_report([directory / job for job in _JOBS], target, "demo")
    click.echo(f"report  {target}")
    click.echo("jobs    " + ", ".join(str(directory / job) for job in _JOBS))
    if _has_display():
        webbrowser.open(target.resolve().as_uri())
    return 0


def _unpack(directory: Path) -> None:
    """Write the recorded jobs that are not there yet; PlanError where something else is."""
    is_other = directory.is_file() or (directory.is_dir() and any(directory.iterdir()))
    if is_other and not (directory / _JOBS[0]).is_dir():
        raise PlanError(f"{directory} is there already, and is no demo; give --out DIR")
    with (files(__name__) / "jobs.zip").open("rb") as file, ZipFile(file) as archive:
        for name in archive.namelist():
            if not (directory / name).exists():
                archive.extract(name, directory)


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
