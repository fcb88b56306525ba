"""`leadline similarity train`: fits a similarity on the finished traces of earlier jobs."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from orchestrator.cli.console import print_json, results_console
from orchestrator.cli.options import EXIT_CODES, debug_option, json_option
from orchestrator.cli.view.tables import similarities_table
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.files import write_atomically
from orchestrator.kit.prefixes import REASONING_WORDS
from orchestrator.plan import registry
from orchestrator.studies.similarity import (
    Cut,
    cross_fitted,
    fit,
    job_prefixes,
    quality,
    scores_of_pairs,
)


@click.group()
def similarity() -> None:
    """Fit a similarity: it predicts from the beginnings of traces which of them will come to the
    same answer (strategy `deepprune`).

    \b
    Examples:
      leadline similarity train runs/arithmetic -o similarity.json
    """


@similarity.command(short_help="Fit a similarity on earlier jobs.", epilog=EXIT_CODES)
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
@click.option("--judge", "name", hidden=True, help="The former name of --similarity.")
@click.option(
    "--words",
    "n_words",
    type=click.IntRange(min=0),
    default=25,
    show_default=True,
    help="A prefix ends at so many reasoning words; 0: no limit.",
)
@click.option(
    "--tokens",
    "n_tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="A prefix ends at so many tokens too; 0: no limit.",
)
@json_option
@debug_option
def train(
    jobs: tuple[str, ...], out: str, name: str, n_words: int, n_tokens: int, as_json: bool
) -> int:
    """Fit a similarity on the finished traces of earlier jobs, and report how good it is.

    A JOB is a job's directory or its journal.db. Each pair of traces of a problem is an example;
    prefixes end as the strategy's would. The numbers are of problems that the similarity was not
    fitted on (five folds): AUROC, and the share of differing pairs that it recognises when it takes
    a fifth of the agreeing ones for different, with 95% intervals over problems. The file is then
    fitted on all problems.

    \b
    Examples:
      leadline similarity train runs/arithmetic -o similarity.json --words 0 --tokens 32
      leadline similarity train runs/a runs/b -o similarity.json
    """
    if not n_words and not n_tokens:
        raise click.UsageError(
            "--words 0 without --tokens: a prefix must end somewhere; set one of them"
        )
    cut = Cut(n_words, REASONING_WORDS, n_tokens)
    pools = {key: pool for job in jobs for key, pool in job_prefixes(Path(job), cut).items()}
    document = fit(name, pools)
    lexical = registry.load("similarity", PluginSpec("lexical"))
    qualities = {
        f"{name} (problems held out)": quality(cross_fitted(name, pools), pools),
        "lexical, for comparison": quality(scores_of_pairs(lexical, pools), pools),
    }
    write_atomically(Path(out), document.encode())
    if as_json:
        print_json({"file": out, "similarities": qualities})
        return 0
    n_traces = sum(len(prefixes) for _, prefixes in pools.values())
    n_problems = len({problem.id for problem, _ in pools.values()})
    console = results_console()
    summary = f"{out}: fitted on {n_traces:,} traces of {n_problems:,} problems"
    console.print(Text(summary, style="bold"))
    console.print(similarities_table(qualities))
    usage = f'similarity = "{name} file={out}", with name = "deepprune"'
    console.print(Text(f"in a plan, below [strategy]: {usage}", style="dim"))
    return 0
