"""The commands that choose settings for the user: `choose`, `temperature`, `weights`.

Parsing only, as in `cli`.
"""

from __future__ import annotations

import click

from orchestrator.cli.frame import EXIT_CODES, debug, display, wants_debug
from orchestrator.cli.options import PlanCommand, overrides


@click.command(
    cls=PlanCommand,
    accepts=lambda key: key != "strategy" and not key.startswith("strategy."),
    short_help="Say which strategy suits a plan's budget, or measure it.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("plan", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option(
    "--pilot",
    type=click.IntRange(min=2),
    metavar="K",
    help="Measure on the first K problems, which need reference answers: starts the engine.",
)
@display
@click.pass_context
def choose(
    ctx: click.Context,
    plan: str | None,
    pilot: int | None,
    every_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Say what `strategy = "auto"` takes for a plan, and why. Without --pilot nothing is started.

    The choice goes by the budget of a problem (budget.tokens, .traces, .seconds), the longest
    attempt (sampling.max_new_tokens), the plan's verifiers and models, and what the engine can do.
    With --pilot the first K problems are sampled in full and the settings that fresh attempts allow
    are compared on them: another takes the rules' place where it is certainly better. pilot.json
    and chosen.toml (a plan for `leadline run`) go to the directory --out, by default that of the
    plan's job with "-choose" added. The same command again goes on where it was.

    \b
    Examples:
      leadline choose plan.toml --budget.tokens 8192
      leadline choose plan.toml --pilot 40
    """
    from orchestrator.cli import run as commands
    from orchestrator.cli.study import choose as choose_command

    shown = commands.DisplayOptions(every_seconds, quiet, as_json, wants_debug(ctx))
    ctx.exit(choose_command.choose(plan, overrides(ctx), pilot or 0, shown))


@click.command(
    cls=PlanCommand,
    accepts=lambda key: not key.startswith(("strategy", "selector", "verifiers", "budget")),
    without=(
        "sampling.temperature",
        "sampling.top_p",
        "sampling.top_k",
        "sampling.min_p",
        "sampling.max_new_tokens",
    ),
    short_help="Choose the sampling temperature from the model's entropy.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("plan", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option(
    "--temperatures",
    default="",
    metavar="T,T,...",
    help="At least three, ascending.  [default: 0.1,0.2,...,1.4]",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Traces at each temperature.",
)
@click.option(
    "--for", "purpose", type=click.Choice(["vote", "best"]), default="vote", show_default=True,
    help="What the samples are for: a vote takes the turning point, best-of-n 0.1 more.",
)  # fmt: skip
@display
@click.pass_context
def temperature(
    ctx: click.Context,
    plan: str | None,
    temperatures: str,
    samples: int,
    purpose: str,
    every_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Choose the temperature at which to sample, by TURN: where the log of the mean token entropy
    turns from concave to convex.

    Samples N traces of at most 1024 tokens at each temperature, of the first N problems one each;
    no reference answers are needed. The engine must give log-probabilities at the temperature
    sampled at (vllm: --execution.engine.processed_logprobs true). The jobs and temperature.json go
    to the directory --out, by default that of the plan's job with "-temperature" added. The same
    command again goes on where it was.

    \b
    Examples:
      leadline temperature plan.toml
      leadline temperature plan.toml --temperatures 0.4,0.6,0.8,1.0,1.2 --for best
    """
    from orchestrator.cli import run as commands
    from orchestrator.cli.study import temperature as temperature_command

    shown = commands.DisplayOptions(every_seconds, quiet, as_json, wants_debug(ctx))
    ctx.exit(
        temperature_command.temperature(plan, overrides(ctx), temperatures, samples, purpose, shown)
    )


@click.command(
    short_help="Weigh several models in one vote, from finished jobs.", epilog=EXIT_CODES
)
@click.argument("jobs", nargs=-1, required=True, type=click.Path(), metavar="JOB...")
@click.option(
    "--problems",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="Where the reference answers are, if not where the jobs ran.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@debug
@click.pass_context
def weights(ctx: click.Context, jobs: tuple[str, ...], problems: str, as_json: bool) -> None:
    """Find the weights with which several models answer most questions right in one vote (strategy
    `ensemble`; Best-of-infinity's program).

    A JOB is the directory of a finished job with reference answers: one in which several pools were
    asked, or one job for each model on the same problems. Says how often each model alone and the
    weighted vote are right in the limit of many draws, also on questions held out from the fit
    (five folds).

    \b
    Examples:
      leadline weights runs/ensemble
      leadline weights runs/small runs/large --problems problems.jsonl
    """
    from orchestrator.cli.study import weights as weights_command

    ctx.exit(weights_command.weights(jobs, problems, as_json))
