"""`leadline compare`: the paired difference of two jobs."""

from __future__ import annotations

import click

from orchestrator.cli.console import print_json, results_console
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.study.results.options import by_option, problems_option, rows_option
from orchestrator.cli.view.results.jobs import comparison_view
from orchestrator.report.comparison import compared
from orchestrator.report.scored import read_scored


@click.command()
@click.argument("first", type=click.Path(), metavar="DIR_A")
@click.argument("second", type=click.Path(), metavar="DIR_B")
@by_option
@rows_option
@problems_option
@json_option
@debug_option
def compare(
    first: str, second: str, tags: tuple[str, ...], n_rows: int, problems: str, as_json: bool
) -> int:
    """Compare two jobs on the problems that both answered: accuracy, tokens, changed problems.

    Differences are B minus A, paired by problem, with 95% intervals from resampling the problems:
    an interval that includes zero may be chance. A problem counts if both jobs had the same
    question under its id.

    \b
    Examples:
      leadline compare runs/plain runs/adaptive
      leadline compare runs/plain runs/adaptive --by level --rows 0
    """
    comparison = compared(read_scored(first, problems), read_scored(second, problems), tags)
    if as_json:
        print_json(comparison)
    else:
        results_console().print(comparison_view(comparison, n_rows))
    return 0
