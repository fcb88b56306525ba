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


@leadline.command(cls=PlanCommand, short_help="Measure accuracy over depth and width.", epilog=EXIT_CODES, options_metavar="[FLAGS]")
@click.argument("plan", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option("--depths", default="", metavar="D,D,...", help="Latent depths, as 1,2,6 or 1..8 (doubling).  [default: the plan's own]")
@click.option("--widths", default="1..16", metavar="K,K,...", show_default=True, help="Traces per problem, as 1,4,16 or 1..64 (doubling).")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take only the first N rows of the problem file.")
@_display
@click.pass_context
def sweep(
    ctx: click.Context, plan: str | None, depths: str, widths: str, limit: int | None, every_seconds: float, quiet: bool, as_json: bool
) -> None:
    """Measure accuracy over depth and width with its cost, and name the cheapest setting as good as the best.

    Samples every problem once per depth, at the largest width, and evaluates smaller widths from the same traces. Writes surface.json,
    best.toml (a plan for `leadline run`) and surface.png to the directory --out, by default that of the plan's job with "-sweep" added.
    The same command again goes on where it was.

    \b
    Examples:
      leadline sweep plan.toml --depths 1,2,4,8 --widths 1..64
      leadline sweep plan.toml --depths 1..8 --widths 1,4,16 --limit 100 --out runs/surface
    """
    from orchestrator import commands, sweep_command

    shown = commands.Shown(every_seconds, quiet, as_json, bool(ctx.meta.get(_DEBUG)))
    ctx.exit(sweep_command.sweep(plan, overrides(ctx), depths, widths, limit or 0, shown))


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

    ctx.exit(commands.evaluate(directory, problems, selectors, _whole_numbers("--ks", ks), as_json))


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        numbers = [0]
    if any(k < 1 for k in numbers):
        raise click.UsageError(f"{option} {text!r}: give whole numbers from 1, separated by commas, e.g. {option} 1,4,16")
    return numbers


@leadline.group(short_help="Choose the layers that a model runs.", epilog=EXIT_CODES)
def depth() -> None:
    """Choose the layers that a model runs, and in which order. Measured in plain PyTorch, without an engine."""


@depth.command(name="probe", short_help="Propose a think block.", epilog=EXIT_CODES)
@click.argument("model")
@click.option("--text", type=click.Path(), metavar="FILE", help="Measure on this text instead of the built-in one.")
@click.option("--depths", default="1,2,3", metavar="R,R,...", show_default=True, help="Measure what looping does at these depths.")
@click.option("--out", type=click.Path(), metavar="DIR", help="Where probe.json and probe.png go.  [default: runs/probe-MODEL]")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@_debug
@click.pass_context
def depth_probe(ctx: click.Context, model: str, text: str | None, depths: str, out: str | None, as_json: bool) -> None:
    """Measure how far each layer of MODEL turns the residual stream, and propose the block to loop.

    Prints the angular distance of each layer, a schedule `encode (think)*r decode` from the knees of that curve, and what looping the
    block does to the likelihood of the text, plain and damped. MODEL is smollm2, a folder or a hub name.

    \b
    Examples:
      leadline depth probe smollm2
      leadline depth probe ./my-model --text sample.txt --depths 1,2,4
    """
    from orchestrator.depth import command

    ctx.exit(command.probe(model, text, _whole_numbers("--depths", depths), out, as_json))


@depth.command(
    cls=PlanCommand,
    name="search",
    accepts=lambda key: key in ("problems", "out", "domain", "seed") or key.startswith(("sampling.", "domains.")),
    without=("sampling.depth", "sampling.top_p", "sampling.top_k", "sampling.min_p", "sampling.repetition_penalty"),
    short_help="Search an order of layers for a task.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("model")
@click.option("--plan", type=click.Path(), metavar="PLAN.toml", help="Take problems, domain, template and limits from this plan.")
@click.option(
    "--reward", type=click.Choice(["auto", "accuracy", "agreement"]), default="auto", show_default=True,
    help="What leads: accuracy needs reference answers; agreement is with the model's own vote. auto: accuracy where it can be had.",
)  # fmt: skip
@click.option(
    "--holdout", type=click.FloatRange(0, 1, max_open=True), default=0.5, metavar="SHARE", show_default=True,
    help="Share of the problems kept from the search, to judge its winner on. 0: judge on the same ones, which is called an oracle.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use only the first N problems.")
@click.option("--simulations", type=click.IntRange(min=1), default=200, metavar="N", show_default=True, help="Orders to try.")
@click.option(
    "--length-penalty",
    type=click.FloatRange(min=0),
    default=5.0,
    metavar="λ",
    show_default=True,
    help="How much the search favours short orders.",
)
@click.option(
    "--exploration",
    type=click.FloatRange(min=0),
    default=0.1,
    metavar="c",
    show_default=True,
    help="How much it favours what it has tried little; not published.",
)
@click.option("--max-layers", type=click.IntRange(min=1), metavar="N", help="Longest order to try.  [default: twice the model's]")
@click.option(
    "--votes", type=click.IntRange(min=1), default=8, metavar="N", show_default=True, help="For agreement: replies drawn for each problem."
)
@_display
@click.pass_context
def depth_search(
    ctx: click.Context, model: str, plan: str | None, reward: str, holdout: float, limit: int | None, simulations: int,
    length_penalty: float, exploration: float, max_layers: int | None, votes: int, every_seconds: float, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Search an order of MODEL's layers for a task: layers skipped, blocks repeated (CoLa's tree search).

    One order for all problems. Led by accuracy where the problems have reference answers, else by agreement with the model's own vote;
    the winner is judged on problems that were kept from the search. Prints the Pareto set of reward against layers run and writes
    schedule.toml, a plan that `leadline run` takes. Ctrl-C keeps what was found; the same command goes on.

    \b
    Examples:
      leadline depth search smollm2 --plan examples/arithmetic.toml --sampling.max_new_tokens 40
      leadline depth search smollm2 --problems dev.jsonl --domain number --simulations 50 --length-penalty 0.5
    """
    from orchestrator.depth import command

    asked = command.Asked(
        reward, holdout, votes, limit or 0, simulations, length_penalty, exploration, max_layers or 0, every_seconds, quiet, as_json
    )
    ctx.exit(command.search(model, plan, overrides(ctx), asked))


@leadline.group(short_help="Fit judges of unfinished traces.")
def judge() -> None:
    """Fit judges, which tell from their beginnings which traces will come to the same answer (strategy `deepprune`).

    \b
    Examples:
      leadline judge train runs/arithmetic -o judge.json
    """


@judge.command(name="train", short_help="Fit a judge on earlier jobs.", epilog=EXIT_CODES)
@click.argument("jobs", nargs=-1, required=True, type=click.Path(), metavar="JOB...")
@click.option("--out", "-o", required=True, type=click.Path(), metavar="FILE", help="Where the fitted judge goes, as JSON.")
@click.option("--judge", "name", default="trained", show_default=True, metavar="NAME", help="Which judge to fit.")
@click.option("--words", type=click.IntRange(min=0), default=25, show_default=True, help="A prefix ends at so many reasoning words; 0: no.")
@click.option("--tokens", type=click.IntRange(min=0), default=0, show_default=True, help="A prefix ends at so many tokens, too; 0: no.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@_debug
@click.pass_context
def train(ctx: click.Context, jobs: tuple[str, ...], out: str, name: str, words: int, tokens: int, as_json: bool) -> None:
    """Fit a judge on the finished traces of earlier jobs, and say how good it is.

    A JOB is a job's directory or its journal.db. Each pair of traces of a problem is an example; prefixes end as the strategy's would.
    The numbers are of problems that the judge was not fitted on (five folds): AUROC, and the share of differing pairs it tells when it
    takes a fifth of the agreeing ones for different, with 95% intervals over problems. The file is then fitted on all problems.

    \b
    Examples:
      leadline judge train runs/arithmetic -o judge.json --words 0 --tokens 32
      leadline judge train runs/a runs/b -o judge.json
    """
    from orchestrator import commands

    if not words and not tokens:
        raise click.UsageError("--words 0 without --tokens: a prefix must end somewhere; set one of them")
    ctx.exit(commands.judge_train(jobs, out, name, words, tokens, as_json))


@leadline.command(short_help="List what a plan can choose from.")
@click.argument("name", required=False)
@_debug
@click.pass_context
def plugins(ctx: click.Context, name: str | None) -> None:
    """List what can be chosen in a plan: strategies, selectors, verifiers, domains, engines, judges. With a NAME: its options.

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
