"""What the commands of `leadline` have in common: how errors end them, the options on what is
shown, numbers in lists.

Exit codes, for every command: 0 done; 1 the job could not be finished, or no problem came to an
answer or an abstention (for `doctor`: something is broken); 2 the command, the plan or an input
file is wrong, and nothing was started; 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.core.errors import LeadlineError, PlanError

F = TypeVar("F", bound=Callable[..., Any])
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_DEBUG = "orchestrator.debug"
EXIT_CODES = """\b
Exit codes:
  0    done
  1    it could not be finished, or no problem got a result of its own
  2    the command, the plan or an input file is wrong; nothing was started
  130  stopped by Ctrl-C (143: by SIGTERM); what arrived is kept"""


class Leadline(click.Group):
    """The group of commands: turns errors that are meant for the user into one message and an exit
    code.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except LeadlineError as error:
            if ctx.meta.get(_DEBUG):
                traceback.print_exc()
            click.echo(f"leadline: {error}", err=True)
            ctx.exit(2 if isinstance(error, PlanError) else 1)
        except KeyboardInterrupt:
            click.echo("leadline: interrupted", err=True)
            ctx.exit(130)


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = ctx.meta.get(_DEBUG, False) or value


def debug(function: F) -> F:
    """Add `--debug`."""
    text = "Show tracebacks, and what the engine writes, on the error stream."
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_remember_debug, help=text
    )(function)


def display(function: F) -> F:
    """Add the options on what is shown."""
    every = click.option(
        "--every", "every_seconds", type=click.FloatRange(min=0.1), default=10.0, metavar="SECONDS", show_default=True,
        help="Not on a terminal: pause between two lines of progress.",
    )  # fmt: skip
    quiet = click.option(
        "--quiet",
        "-q",
        is_flag=True,
        help="Show no progress and no closing table: errors, --json and answers only.",
    )
    as_json = click.option(
        "--json", "as_json", is_flag=True, help="Print the summary as JSON on the standard output."
    )
    return every(quiet(as_json(debug(function))))


def wants_debug(ctx: click.Context) -> bool:
    """Tell whether `--debug` was given."""
    return bool(ctx.meta.get(_DEBUG))


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers that an option lists, ascending; a usage error for anything else."""
    try:
        numbers = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        numbers = [0]
    if any(k < 1 for k in numbers):
        raise click.UsageError(
            f"{option} {text!r}: give whole numbers from 1, separated by commas, e.g. {option} 1,4,16"
        )
    return numbers
