"""The commands about this installation: `leadline plugins` and `leadline doctor`."""

from __future__ import annotations

import click
from rich.text import Text

from orchestrator.cli import doctor as checks
from orchestrator.cli.console import results_console
from orchestrator.cli.options import debug_option
from orchestrator.cli.view import plugins as view


@click.command()
@click.argument("name", required=False)
@debug_option
def plugins(name: str | None) -> int:
    """List what a plan can choose from: strategies, selectors, verifiers, domains, engines,
    similarities. With a NAME: its options.

    \b
    Examples:
      leadline plugins
      leadline plugins adaptive
    """
    if name is not None:
        results_console().print(view.details(name))
        return 0
    table, sound = view.overview()
    results_console().print(table)
    return 0 if sound else 1


@click.command()
@click.option(
    "--engine",
    "deep",
    is_flag=True,
    help="Answer one question with the real engine too (a minute or two).",
)
@debug_option
def doctor(deep: bool) -> int:
    """Check this installation: what is there, what is missing, what clashes, and what to do about
    it.

    \b
    Examples:
      leadline doctor
      leadline doctor --engine
    """
    console = results_console()
    n_broken = 0
    for finding in checks.findings(deep):
        console.print(checks.drawn(finding))
        n_broken += finding.state is checks.State.BROKEN
    summary = f"{n_broken} broken" if n_broken else "nothing is broken"
    console.print(Text(f"\n{summary}", style="bold red" if n_broken else "bold green"))
    return 1 if n_broken else 0
