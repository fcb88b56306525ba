"""Evaluates how well similarities predict from prefixes which traces reach the same answer.

    python benchmarks/similarity.py [TRACES]

Uses recorded traces, split by problem. TRACES is the folder of recordings (default:
$LEADLINE_TRACES, else ../shared/traces). Texts: Qwen2.5-1.5B-Instruct on GSM8K and MATH-500 (folder
qwen2.5-1.5b), cut at a number of tokens; `trained` and `embedding` are fitted on the other folds of
problems. Answer probes need the model of a text; `probe` is measured on recorded probes, Qwen3 on
AIME 2024 (folder qwen3-aime24).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, PluginSpec, Prefix, Problem, Request, Trace, Usage
from orchestrator.kit.prefixes import REASONING_WORDS, LabelledPrefix
from orchestrator.plan import registry
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.studies.similarity import (
    Cut,
    Pools,
    Quality,
    cross_fitted,
    labelled_prefixes,
    quality,
    scores_of_pairs,
)

CUTS = (64, 128, 256)  # tokens
PROBED_AT = (500, 2000, 4000, 8000)  # tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "traces",
        nargs="?",
        type=Path,
        default=Path(os.environ.get("LEADLINE_TRACES", "../shared/traces")),
    )
    folder: Path = parser.parse_args().traces
    if not (folder / "qwen2.5-1.5b").is_dir():
        parser.error(
            f"there are no recordings in {folder}; give their folder, or set LEADLINE_TRACES"
        )
    pools = asyncio.run(recorded_texts(folder / "qwen2.5-1.5b"))
    for n_tokens in CUTS:
        cut = Cut(25, REASONING_WORDS, n_tokens)
        prefixes = {
            id: (problem, labelled_prefixes(traces, cut)) for id, (problem, traces) in pools.items()
        }
        print(
            f"\nprefixes of {n_tokens} tokens (or 25 reasoning words): "
            f"{sum(len(p) > 1 for _, p in prefixes.values())} problems"
        )
        for name in ("lexical", "embedding", "trained"):
            show(name, measured(name, prefixes))
    for path in sorted((folder / "qwen3-aime24").glob("*.json.gz")):
        print(
            f"\n{path.name.partition('.json')[0]}, AIME 2024, probes recorded after so many tokens"
        )
        for n_tokens in PROBED_AT:
            probed = recorded_probes(path, n_tokens)
            similarity = registry.load("similarity", PluginSpec("probe"))
            scores = scores_of_pairs(similarity, probed)
            show(f"probe at {n_tokens}", quality(scores, probed))
            print(f"  {'':14s} its own cut: {rates(scores, probed)}")


def measured(name: str, pools: Pools) -> Quality:
    """Return a similarity's quality; with a model file, it is fitted on the other folds."""
    if name == "lexical":
        return quality(scores_of_pairs(registry.load("similarity", PluginSpec(name)), pools), pools)
    return quality(cross_fitted("trained", pools, scored_by=name), pools)


def rates(scores: Mapping[str, Sequence[float | None]], pools: Pools) -> str:
    """Return the FNR and TNR of a similarity with binary scores.

    FNR is the share of agreeing pairs classified as different, TNR that of differing pairs
    classified as different.
    """
    same = [a.final == b.final for _, pool in pools.values() for a, b in combinations(pool, 2)]
    equal = [score == 1.0 for key in pools for score in scores[key]]
    false_negatives = sum(s and not t for s, t in zip(same, equal, strict=True)) / sum(same)
    true_negatives = sum(not s and not t for s, t in zip(same, equal, strict=True)) / (
        len(same) - sum(same)
    )
    return f"FNR {false_negatives:.3f}, TNR {true_negatives:.3f}"


def show(name: str, found: Quality) -> None:
    """Print one line."""

    def interval(e: Any) -> str:
        return (
            "-"
            if e is None
            else f"{e.value:.3f}"
            if e.low is None
            else f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
        )

    print(
        f"  {name:14s} AUROC {interval(found.auroc)}   within a problem {interval(found.within)}   "
        f"TNR at 20 % FNR {interval(found.tnr)}   {found.n_pairs:,} pairs, "
        f"{found.n_same / found.n_pairs:.0%} agree",
        flush=True,
    )


async def recorded_texts(folder: Path) -> dict[str, tuple[Problem, list[Trace]]]:
    """Return each problem with its traces.

    Answers are read and classified again by the project's rules.
    """
    prompts = {p["id"]: p["prompt"] for p in _json(folder / "math500-7b-pass1.json.gz")["problems"]}
    plan = Plan()
    found: dict[str, tuple[Problem, list[Trace]]] = {}
    checkers = AnswerWorkers()
    try:
        annotator = Annotator(plan, checkers)
        classes: dict[str, Classes] = {}
        for name in ("gsm8k-bestofn", "math500-bestofn-seed0", "math500-bestofn-seed1"):
            for record in _json(folder / f"{name}.json.gz")["records"]:
                id = record["problem_id"]
                problem, traces = found.setdefault(id, (Problem(id, prompts.get(id, "")), []))
                for raw in record["traces"]:
                    request = Request(problem_id=id, ordinal=len(traces))
                    finish = Finish.STOP if raw["tokens"] < 1024 else Finish.LENGTH
                    trace = Trace(
                        len(traces),
                        raw["text"],
                        finish=finish,
                        usage=Usage(output_tokens=raw["tokens"]),
                    )
                    traces.append(
                        await annotator.annotate(
                            problem, request, trace, classes.setdefault(id, Classes())
                        )
                    )
    finally:
        await checkers.aclose()
    return found


def recorded_probes(path: Path, n_tokens: int) -> Pools:
    """Return the branches that were unfinished after `n_tokens` tokens.

    Each has its probe's answer and its final answer.
    """
    pools: dict[str, tuple[Problem, Sequence[LabelledPrefix]]] = {}
    with gzip.open(path, "rt") as file:
        questions = json.load(file)
    for i, question in enumerate(questions):
        place = n_tokens // int(question["probe_freq"]) - 1
        pool = [
            LabelledPrefix(Prefix(o, "", str(probes[place])), str(final))
            for o, (probes, _, final) in enumerate(question["each_branch"])
            if len(probes) > place
        ]
        pools[str(i)] = (Problem(str(i), question["question"]), pool)
    return pools


def _json(path: Path) -> Any:
    with gzip.open(path, "rt") as file:
        return json.load(file)


if __name__ == "__main__":
    main()
