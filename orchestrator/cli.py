"""The command `leadline`: parsing and printing only. What it parses is handed to `commands`, which imports the rest.

Exit codes, for every command: 0 done; 1 the job could not be finished, or no problem came to an answer or an abstention (for `doctor`:
something is broken); 2 the command, the plan or an input file is wrong, and nothing was started; 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.core.errors import LeadlineError, PlanError
from orchestrator.flags import PlanCommand, overrides

F = TypeVar("F", bound=Callable[..., Any])
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_DEBUG = "orchestrator.debug"
EXIT_CODES = """\b
Exit codes:
  0    done
  1    it could not be finished, or no problem got a result of its own
  2    the command, the plan or an input file is wrong; nothing was started
  130  stopped by Ctrl-C (143: by SIGTERM); what arrived is kept"""


class Leadline(click.Group):
    """The group of commands: turns errors that are meant for the user into one message and an exit code."""

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


def _debug(function: F) -> F:
    text = "Show tracebacks, and what the engine writes, on the error stream."
    return click.option("--debug", is_flag=True, expose_value=False, callback=_remember_debug, help=text)(function)


def _display(function: F) -> F:
    """Add the options on what is shown."""
    every = click.option(
        "--every", "every_seconds", type=click.FloatRange(min=0.1), default=10.0, metavar="SECONDS", show_default=True,
        help="Not on a terminal: pause between two lines of progress.",
    )  # fmt: skip
    quiet = click.option("--quiet", "-q", is_flag=True, help="Show no progress and no closing table: errors, --json and answers only.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on the standard output.")
    return every(quiet(as_json(_debug(function))))


@click.group(cls=Leadline, context_settings=_CONTEXT, epilog=EXIT_CODES)
@click.version_option(package_name="leadline", prog_name="leadline")
def leadline() -> None:
    """Ask a language model many times, in parallel, and vote.

    \b
    A first try, without a model:
      leadline solve "What is 17 + 25?" --fleet.engine fake
    With the small model that comes along:
      leadline solve "What is 17 + 25?"
    A file of problems, one JSON object a line ({"id": ..., "prompt": ..., "answer": ...}):
      leadline run --problems problems.jsonl --strategy adaptive
    """


@leadline.command(cls=PlanCommand, short_help="Run a file of problems, or go on with it.", epilog=EXIT_CODES, options_metavar="[FLAGS]")
@click.argument("plan", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Run only the first N rows of the problem file.")
@_display
@click.pass_context
def run(ctx: click.Context, plan: str | None, limit: int | None, every_seconds: float, quiet: bool, as_json: bool) -> None:
    """Run a file of problems; the same command again goes on where it was.

    Every key of a plan is a flag too and wins over the file. Options of the strategy, the selector, the engine, a domain or a model are
    flags by their dotted names: --strategy.n 16, --fleet.engine.replicas 2, --models.main.revision v1. `leadline plugins` lists them.

    \b
    Examples:
      leadline run examples/arithmetic.toml
      leadline run --problems problems.jsonl --strategy adaptive --strategy.n 32
      leadline run plan.toml --sampling.temperature 0.9 --out runs/hotter --limit 20
    """
    from orchestrator import commands

    shown = commands.Shown(every_seconds, quiet, as_json, bool(ctx.meta.get(_DEBUG)))
    ctx.exit(commands.run(plan, overrides(ctx), limit or 0, shown))


@leadline.command(
    cls=PlanCommand,
    accepts=lambda key: key.startswith("fleet."),
    short_help="Go on with an interrupted job.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("directory", type=click.Path(), metavar="DIR")
@_display
@click.pass_context
def resume(ctx: click.Context, directory: str, every_seconds: float, quiet: bool, as_json: bool) -> None:
    """Go on with a job that was interrupted, from its directory alone.

    The plan is the one it was begun with. What decides only speed may be changed: the flags of `fleet`.

    \b
    Examples:
      leadline resume runs/arithmetic
      leadline resume runs/arithmetic --fleet.window 128
    """
    from orchestrator import commands

    shown = commands.Shown(every_seconds, quiet, as_json, bool(ctx.meta.get(_DEBUG)))
    ctx.exit(commands.resume(directory, overrides(ctx), shown))


@leadline.command(
    cls=PlanCommand, without=("problems", "format"), short_help="Answer one question.", epilog=EXIT_CODES, options_metavar="[FLAGS]"
)
@click.argument("question")
@click.option("--plan", type=click.Path(), metavar="PLAN.toml", help="Take the plan from this file; its problems are not read.")
@click.option("--show-traces", is_flag=True, help="Print every trace's text too.")
@_display
@click.pass_context
def solve(ctx: click.Context, question: str, plan: str | None, show_traces: bool, every_seconds: float, quiet: bool, as_json: bool) -> None:
    """Answer one question, and show how the vote went. "-" reads the question from the standard input.

    Nothing is kept unless --out names a directory for the job.

    \b
    Examples:
      leadline solve "What is 17 + 25?" --strategy.n 16
      leadline solve "Which is larger, 9.11 or 9.9?" --strategy adaptive --show-traces
      leadline solve - --domain text < question.txt
    """
    from orchestrator import commands

    text = sys.stdin.read() if question == "-" else question
    shown = commands.Shown(every_seconds, quiet, as_json, bool(ctx.meta.get(_DEBUG)))
    ctx.exit(commands.solve(text, plan, overrides(ctx), show_traces, shown))


@leadline.command(name="eval", short_help="Evaluate a job, and other selectors on it.")
@click.argument("directory", type=click.Path(), metavar="DIR")
@click.option("--problems", type=click.Path(), metavar="FILE", help="Where the reference answers are, if not in the file that was run.")
@click.option("--selector", "selectors", multiple=True, metavar="NAME", help="Vote again with this one too; may be given several times.")
@click.option("--ks", default="", metavar="K,K,...", help="Widths for pass@k and maj@k.  [default: powers of two]")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@_debug
@click.pass_context
def evaluate(ctx: click.Context, directory: str, problems: str | None, selectors: tuple[str, ...], ks: str, as_json: bool) -> None:
    """Evaluate a job against reference answers, from its journal alone: no engine is started.

    Prints the accuracy with its 95% interval, what other selectors make of the same traces, and pass@k and maj@k. Options of a selector
    follow its name, separated by spaces.

    \b
    Examples:
      leadline eval runs/arithmetic
      leadline eval runs/arithmetic --selector weighted --selector "filtered by=tail_confidence" --ks 1,4,16
      leadline eval runs/arithmetic --problems answers.jsonl
    """
    from orchestrator import commands

    ctx.exit(commands.evaluate(directory, problems, selectors, _widths(ks), as_json))


def _widths(text: str) -> list[int]:
    try:
        widths = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        widths = [0]
    if any(k < 1 for k in widths):
        raise click.UsageError(f"--ks {text!r}: give whole numbers from 1, separated by commas, e.g. --ks 1,4,16")
    return widths


@leadline.command(short_help="Compare strategies on recorded traces, without a model.", epilog=EXIT_CODES)
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="SOURCE...")
@click.option("--strategy", "strategies", multiple=True, required=True, metavar="SPEC", help="May be given several times.")
@click.option(
    "--selector", "selectors", multiple=True, metavar="SPEC", help="How to vote; several are compared.  [default: the strategy's own]"
)
@click.option("--seeds", "n_seeds", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="How often to draw anew.")
@click.option(
    "--draw", type=click.Choice(["shuffled", "recorded", "resampled"]), default="shuffled", show_default=True,
    help="Traces without replacement, in the order of recording, or with replacement.",
)  # fmt: skip
@click.option("--domain", default="", metavar="NAME", help="Compare answers by this domain.  [default: equal texts; math for full texts]")
@click.option("--problems", default="", type=click.Path(), metavar="FILE", help="Where a job's reference answers are, if not where it ran.")
@click.option("--probe-tokens", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="What a probe is charged.")
@click.option("--max-tokens", type=click.IntRange(min=0), default=0, metavar="N", help="Budget of a question.  [default: none]")
@click.option("--processes", "n_processes", type=click.IntRange(min=0), default=0, metavar="N", help="[default: one per core]")
@click.option(
    "--plot", default="", type=click.Path(), metavar="FILE", help="Draw accuracy against tokens into this file (.png, .svg, .pdf)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@_debug
@click.pass_context
def replay(ctx: click.Context, /, **asked: Any) -> None:
    """Replay strategies on recorded traces: accuracy against tokens, with 95% intervals over questions, and the critical path.

    A SOURCE is a job directory or a file of recorded traces (docs/replay.md). A strategy is a name, then options; values with commas are
    taken in turn.

    \b
    Examples:
      leadline replay runs/arithmetic --strategy "consistency n=1,2,4,8" --strategy "adaptive n=8"
      leadline replay 4B.json.gz 8B.json.gz --strategy "sounding risk=0.05,0.1,0.2" --plot frontier.svg
      leadline replay pool.json --strategy "consistency n=8" --selector majority --selector "best by=verdict:prm"
    """
    from orchestrator.replay_command import Asked
    from orchestrator.replay_command import replay as run_replay

    ctx.exit(run_replay(Asked(**asked)))


@leadline.command(short_help="List what a plan can choose from.")
@click.argument("name", required=False)
@_debug
@click.pass_context
def plugins(ctx: click.Context, name: str | None) -> None:
    """List what can be chosen in a plan: strategies, selectors, verifiers, domains, engines. With a NAME: its options.

    \b
    Examples:
      leadline plugins
      leadline plugins adaptive
    """
    from orchestrator import commands

    ctx.exit(commands.plugins(name))


@leadline.command(short_help="Check this installation.")
@click.option("--engine", "deep", is_flag=True, help="Answer one question with the real engine too (a minute or two).")
@_debug
@click.pass_context
def doctor(ctx: click.Context, deep: bool) -> None:
    """Check this installation: what is there, what is missing, what clashes, and what to do about it.

    \b
    Examples:
      leadline doctor
      leadline doctor --engine
    """
    from orchestrator import commands

    ctx.exit(commands.doctor(deep))


def main() -> None:
    """Run the command."""
    try:
        leadline()
    except BrokenPipeError:  # the reader of a pipe went away
        sys.stderr.close()
        sys.exit(1)
