"""The commands that compare settings and fit what strategies use: `sweep`, `depth`, `similarity`,
`replay`. Parsing only, as in `cli`.
"""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.frame import EXIT_CODES, debug, display, wants_debug, whole_numbers
from orchestrator.cli.options import PlanCommand, overrides


@click.command(
    cls=PlanCommand,
    short_help="Measure accuracy over depth and width.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("plan", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option(
    "--depths",
    default="",
    metavar="D,D,...",
    help="Latent depths, as 1,2,6 or 1..8 (doubling).  [default: the plan's own]",
)
@click.option(
    "--widths",
    default="1..16",
    metavar="K,K,...",
    show_default=True,
    help="Traces per problem, as 1,4,16 or 1..64 (doubling).",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Take only the first N rows of the problem file.",
)
@display
@click.pass_context
def sweep(
    ctx: click.Context,
    plan: str | None,
    depths: str,
    widths: str,
    limit: int | None,
    every_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure accuracy over depth and width with its cost, and name the cheapest setting as good as
    the best.

    Samples every problem once per depth, at the largest width, and evaluates smaller widths from
    the same traces. Writes surface.json, best.toml (a plan for `leadline run`) and surface.png to
    the directory --out, by default that of the plan's job with "-sweep" added. The same command
    again goes on where it was.

    \b
    Examples:
      leadline sweep plan.toml --depths 1,2,4,8 --widths 1..64
      leadline sweep plan.toml --depths 1..8 --widths 1,4,16 --limit 100 --out runs/surface
    """
    from orchestrator.cli import run as commands
    from orchestrator.cli.study import sweep as sweep_command

    shown = commands.DisplayOptions(every_seconds, quiet, as_json, wants_debug(ctx))
    ctx.exit(sweep_command.sweep(plan, overrides(ctx), depths, widths, limit or 0, shown))


@click.group(short_help="Choose the layers that a model runs.", epilog=EXIT_CODES)
def depth() -> None:
    """Choose the layers that a model runs, and in which order.

    Measured in plain PyTorch, without an engine.
    """


@depth.command(name="probe", short_help="Propose a think block.", epilog=EXIT_CODES)
@click.argument("model")
@click.option(
    "--text",
    type=click.Path(),
    metavar="FILE",
    help="Measure on this text instead of the built-in one.",
)
@click.option(
    "--depths",
    default="1,2,3",
    metavar="R,R,...",
    show_default=True,
    help="Measure what looping does at these depths.",
)
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR",
    help="Where probe.json and probe.png go.  [default: runs/probe-MODEL]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@debug
@click.pass_context
def depth_probe(
    ctx: click.Context, model: str, text: str | None, depths: str, out: str | None, as_json: bool
) -> None:
    """Measure how far each layer of MODEL turns the residual stream, and propose the block to loop.

    Prints the angular distance of each layer, a schedule `encode (think)*r decode` from the knees
    of that curve, and what looping the block does to the likelihood of the text, plain and damped.
    MODEL is smollm2, a folder or a hub name.

    \b
    Examples:
      leadline depth probe smollm2
      leadline depth probe ./my-model --text sample.txt --depths 1,2,4
    """
    from orchestrator.cli.study import layers as command

    ctx.exit(command.probe(model, text, whole_numbers("--depths", depths), out, as_json))


@depth.command(
    cls=PlanCommand,
    name="search",
    accepts=lambda key: (
        key in ("problems", "out", "domain", "seed") or key.startswith(("sampling.", "domains."))
    ),
    without=(
        "sampling.depth",
        "sampling.top_p",
        "sampling.top_k",
        "sampling.min_p",
        "sampling.repetition_penalty",
    ),
    short_help="Search an order of layers for a task.",
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.argument("model")
@click.option(
    "--plan",
    type=click.Path(),
    metavar="PLAN.toml",
    help="Take problems, domain, template and limits from this plan.",
)
@click.option(
    "--reward", type=click.Choice(["auto", "accuracy", "agreement"]), default="auto", show_default=True,
    help="What leads: accuracy needs reference answers; agreement is with the model's own vote. auto: accuracy where it can be had.",
)  # fmt: skip
@click.option(
    "--holdout", type=click.FloatRange(0, 1, max_open=True), default=0.5, metavar="SHARE", show_default=True,
    help="Share of the problems kept from the search, to judge its winner on. 0: judge on the same ones, which is called an oracle.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Use only the first N problems."
)
@click.option(
    "--simulations",
    type=click.IntRange(min=1),
    default=200,
    metavar="N",
    show_default=True,
    help="Orders to try.",
)
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
@click.option(
    "--max-layers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Longest order to try.  [default: twice the model's]",
)
@click.option(
    "--votes",
    type=click.IntRange(min=1),
    default=8,
    metavar="N",
    show_default=True,
    help="For agreement: replies drawn for each problem.",
)
@display
@click.pass_context
def depth_search(
    ctx: click.Context, model: str, plan: str | None, reward: str, holdout: float, limit: int | None, simulations: int,
    length_penalty: float, exploration: float, max_layers: int | None, votes: int, every_seconds: float, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Search an order of MODEL's layers for a task: layers skipped, blocks repeated (CoLa's tree
    search).

    One order for all problems. Led by accuracy where the problems have reference answers, else by
    agreement with the model's own vote; the winner is judged on problems that were kept from the
    search. Prints the Pareto set of reward against layers run and writes schedule.toml, a plan that
    `leadline run` takes. Ctrl-C keeps what was found; the same command goes on.

    \b
    Examples:
      leadline depth search smollm2 --plan examples/arithmetic.toml --sampling.max_new_tokens 40
      leadline depth search smollm2 --problems dev.jsonl --domain number --simulations 50
        --length-penalty 0.5
    """
    from orchestrator.cli.study import layers as command

    asked = command.Asked(
        reward,
        holdout,
        votes,
        limit or 0,
        simulations,
        length_penalty,
        exploration,
        max_layers or 0,
        every_seconds,
        quiet,
        as_json,
    )
    ctx.exit(command.search(model, plan, overrides(ctx), asked))


@click.group(short_help="Fit a similarity of unfinished traces.")
def similarity() -> None:
    """Fit a similarity, which tells from their beginnings which traces will come to the same answer
    (strategy `deepprune`).

    \b
    Examples:
      leadline similarity train runs/arithmetic -o similarity.json
    """


@similarity.command(name="train", short_help="Fit a similarity on earlier jobs.", epilog=EXIT_CODES)
@click.argument("jobs", nargs=-1, required=True, type=click.Path(), metavar="JOB...")
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="Where the fitted similarity goes, as JSON.",
)
@click.option(
    "--similarity",
    "name",
    default="trained",
    show_default=True,
    metavar="NAME",
    help="Which similarity to fit.",
)
@click.option(
    "--words",
    type=click.IntRange(min=0),
    default=25,
    show_default=True,
    help="A prefix ends at so many reasoning words; 0: no.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="A prefix ends at so many tokens, too; 0: no.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@debug
@click.pass_context
def train(
    ctx: click.Context,
    jobs: tuple[str, ...],
    out: str,
    name: str,
    words: int,
    tokens: int,
    as_json: bool,
) -> None:
    """Fit a similarity on the finished traces of earlier jobs, and say how good it is.

    A JOB is a job's directory or its journal.db. Each pair of traces of a problem is an example;
    prefixes end as the strategy's would. The numbers are of problems that the similarity was not fitted
    on (five folds): AUROC, and the share of differing pairs it tells when it takes a fifth of the
    agreeing ones for different, with 95% intervals over problems. The file is then fitted on all
    problems.

    \b
    Examples:
      leadline similarity train runs/arithmetic -o similarity.json --words 0 --tokens 32
      leadline similarity train runs/a runs/b -o similarity.json
    """
    from orchestrator.cli.study import similarity as similarity_study

    if not words and not tokens:
        raise click.UsageError(
            "--words 0 without --tokens: a prefix must end somewhere; set one of them"
        )
    ctx.exit(similarity_study.train(jobs, out, name, words, tokens, as_json))


@click.command(
    short_help="Compare strategies on recorded traces, without a model.", epilog=EXIT_CODES
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="SOURCE...")
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="May be given several times.",
)
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    metavar="SPEC",
    help="How to vote; several are compared.  [default: the strategy's own]",
)
@click.option(
    "--seeds",
    "n_seeds",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="How often to draw anew.",
)
@click.option(
    "--draw", type=click.Choice(["shuffled", "recorded", "resampled"]), default="shuffled", show_default=True,
    help="Traces without replacement, in the order of recording, or with replacement.",
)  # fmt: skip
@click.option(
    "--domain",
    default="",
    metavar="NAME",
    help="Compare answers by this domain.  [default: equal texts; math for full texts]",
)
@click.option(
    "--problems",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="Where a job's reference answers are, if not where it ran.",
)
@click.option(
    "--probe-tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="What a probe is charged.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Budget of a question.  [default: none]",
)
@click.option(
    "--processes",
    "n_processes",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="[default: one per core]",
)
@click.option(
    "--plot",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="Draw accuracy against tokens into this file (.png, .svg, .pdf).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@debug
@click.pass_context
def replay(ctx: click.Context, /, **asked: Any) -> None:
    """Replay strategies on recorded traces: accuracy against tokens, with 95% intervals over
    questions, and the critical path.

    A SOURCE is a job directory or a file of recorded traces (docs/replay.md). A strategy is a name,
    then options; values with commas are taken in turn.

    \b
    Examples:
      leadline replay runs/arithmetic --strategy "consistency n=1,2,4,8" --strategy "adaptive n=8"
      leadline replay 4B.json.gz 8B.json.gz --strategy "sounding risk=0.05,0.1,0.2" --plot
        frontier.svg
      leadline replay pool.json --strategy "consistency n=8" --selector majority --selector "best
        by=verdict:prm"
    """
    from orchestrator.cli.study.replay import Asked
    from orchestrator.cli.study.replay import replay as run_replay

    ctx.exit(run_replay(Asked(**asked)))
