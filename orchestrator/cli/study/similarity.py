"""What `leadline judge train` does once its arguments are parsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from orchestrator.cli.run import print_json, stdout
from orchestrator.cli.view.tables import judges_table
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


def train(
    sources: Sequence[str], out: str, name: str, n_words: int, n_tokens: int, as_json: bool
) -> int:
    """Fit a similarity on the traces of earlier jobs, say how good it is on problems it was not fitted
    on, and write its file.
    """
    cut = Cut(n_words, REASONING_WORDS, n_tokens)
    pools = {
        key: pool for source in sources for key, pool in job_prefixes(Path(source), cut).items()
    }
    text = fit(name, pools)
    found = {f"{name} (problems held out)": quality(cross_fitted(name, pools), pools)}
    lexical = registry.load("similarity", PluginSpec("lexical"))
    found["lexical, for comparison"] = quality(scores_of_pairs(lexical, pools), pools)
    write_atomically(Path(out), text.encode())
    if as_json:
        print_json({"file": out, "similarities": found})
        return 0
    n_problems = len({problem.id for problem, _ in pools.values()})
    console = stdout()
    console.print(
        Text(
            f"{out}: fitted on {sum(len(p) for _, p in pools.values()):,} traces of {n_problems:,} problems",
            style="bold",
        )
    )
    console.print(judges_table(found))
    console.print(
        Text(
            f'in a plan, below [strategy]: judge = "{name} file={out}", with name = "deepprune"',
            style="dim",
        )
    )
    return 0
