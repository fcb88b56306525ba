"""`leadline view`: the pages of a report, served while a job runs and for jobs of any size."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path

import click

from orchestrator.cli.console import message
from orchestrator.cli.options import debug_option
from orchestrator.cli.study.results.options import problems_option
from orchestrator.core.errors import PlanError

_PACKAGES = ("starlette", "uvicorn")


@click.command()
@click.argument("place", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. With another than this machine's own, anybody who has the printed "
    "address can read the job.",
)
@problems_option
@debug_option
def view(place: Path, port: int, host: str, problems: str) -> int:
    """Serve the pages of `leadline report` for a job of any size, live while it runs.

    DIR is the directory of a job or of a sweep. Open the printed address in a browser; without the
    token in it, nothing is served. Nothing is written to the job, which may run meanwhile, or on
    another machine with the same file system. Ctrl-C ends it.

    \b
    Examples:
      leadline view runs/arithmetic
      leadline view runs/arithmetic --port 8321    # for: ssh -L 8321:localhost:8321 MACHINE
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise PlanError(
            f"{missing[0]} is not installed; install it with: pip install leadline[serve]"
        )
    from orchestrator.report.live.serving import serve_view

    def started(address: str) -> None:
        click.echo(address)
        message("Ctrl-C ends it")

    with contextlib.suppress(KeyboardInterrupt):
        serve_view(place, problems, host, port, started)
    return 0
