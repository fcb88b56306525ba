"""The commands about this installation: `leadline plugins` and `leadline doctor`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from orchestrator.cli.console import print_json, print_whole, results_console
from orchestrator.cli.machine import doctor as checks
from orchestrator.cli.machine.job_check import job_findings
from orchestrator.cli.options import debug_option
from orchestrator.cli.view import plugins as view


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the list with all options as JSON.")
@debug_option
def plugins(name: str | None, as_json: bool) -> int:
    """List the plugins that a plan can name.

    These are strategies, selectors, verifiers, domains, engines and similarities. With a NAME,
    describe that plugin and its options with type, default, range and meaning.

    \b
    Examples:
      leadline plugins
      leadline plugins adaptive
      leadline plugins --json
    """
    summaries = view.summaries(name)
    if as_json:
        print_json(summaries)
    else:
        print_whole(view.overview(summaries) if name is None else view.details(name))
    return 1 if any(plugin.error for plugin in summaries) else 0


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "deep",
    is_flag=True,
    help="Also answer one question with the real engine (a minute or two).",
)
@click.option(
    "--repair",
    "mends",
    is_flag=True,
    help="Make a new journal of what can be read of a damaged one, which is set aside.",
)
@debug_option
def doctor(directory: Path | None, deep: bool, mends: bool) -> int:
    """Check this installation: what is there, what is missing, what clashes, and what to do about
    it. With the DIRECTORY of a job, check the job's journal instead.

    \b
    Examples:
      leadline doctor
      leadline doctor --engine
      leadline doctor runs/full
      leadline doctor runs/full --repair
    """
    if directory is None and mends:
        raise click.UsageError("--repair takes the directory of a job")
    if directory is not None and deep:
        raise click.UsageError("--engine checks the installation; leave out the directory")
    console = results_console()
    n_broken = 0
    findings = checks.findings(deep) if directory is None else job_findings(directory, mends)
    for finding in findings:
        console.print(checks.finding_lines(finding))
        n_broken += finding.state is checks.State.BROKEN
    summary = f"{n_broken} broken" if n_broken else "nothing is broken"
    console.print(Text(f"\n{summary}", style="bold red" if n_broken else "bold green"))
    return 1 if n_broken else 0
