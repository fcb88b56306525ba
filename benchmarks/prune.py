"""Measures the savings of pruning on a live vLLM: all strategies on the same problems and n.

    python benchmarks/prune.py [--problems 6] [--n 16] [--rounds 1]

SmolLM2-135M runs on word problems of examples/arithmetic.jsonl, with attempts that are long enough
to be pruned but seldom agree. Then the shipped looped model runs at depth 3 on puzzles of
examples/sounder.jsonl (all 119), with short attempts and decisive votes. All traces of a problem
are in flight together. Prints tokens, seconds and CPU seconds (without engine start), the savings
of each against `consistency` in the same round, accuracy with Wilson's 95 % interval, and the
tokens that vLLM generated for a request after the abort: at most one, in the step that
was running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from live import MODELS, Opened, Run, engine, job

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Finish, PluginSpec, Problem, Sampling
from orchestrator.plan import registry
from orchestrator.studies.estimates import share_estimate

WINDOW_TOKENS = (
    16  # DeepConf's 2048 is for traces of tens of thousands of tokens; these have about 100
)
MAJORITY = PluginSpec("majority")
TEMPLATE = "{prompt} Think step by step, then say: The answer is"


def settings(n: int) -> dict[str, tuple[PluginSpec, PluginSpec]]:
    """Return the strategies to compare, each with its published selector."""
    by_confidence = PluginSpec("weighted", {"by": f"lowest_confidence@{WINDOW_TOKENS}"})
    few = max(3, n // 4)  # the paper lets 20 of 512 finish
    prune = {"n": n, "prefix_tokens": 32, "n_words": 0, "n_finished": few, "n_single": few}
    conf = {"n": n, "n_init": max(2, n // 4), "window_tokens": WINDOW_TOKENS, "wave": n}
    return {
        "consistency": (PluginSpec("consistency", {"n": n}), MAJORITY),
        "deepprune": (PluginSpec("deepprune", prune | {"judge": "probe"}), MAJORITY),
        "deepprune lexical": (PluginSpec("deepprune", prune | {"judge": "lexical"}), MAJORITY),
        "deepprune every": (
            PluginSpec("deepprune", prune | {"judge": "probe", "keep": "every"}),
            MAJORITY,
        ),
        "deepconf low": (PluginSpec("deepconf", conf | {"keep": 0.1}), by_confidence),
        "deepconf high": (PluginSpec("deepconf", conf | {"keep": 0.9}), by_confidence),
        "sounding": sounding(n, 0.15),
        "sounding .3": sounding(n, 0.3),
    }


def sounding(n: int, risk: float, slope: float = 0.5) -> tuple[PluginSpec, PluginSpec]:
    """Return `sounding` at a risk, without probes and length cap.

    Those are for attempts of many thousand tokens.
    """
    options = {"n": n, "risk": risk, "slope": slope, "patience": 0, "longest_tokens": 0}
    return PluginSpec("sounding", options), PluginSpec("discounted", {"slope": slope})


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(_run(options.problems, options.n, options.rounds))


async def _run(n_problems: int, n: int, n_rounds: int) -> None:
    long = Case(
        MODELS,
        Sampling(temperature=0.7, top_p=1.0, max_new_tokens=128, template=TEMPLATE),
        rows("arithmetic")[:n_problems],
    )
    async with engine(2 * n, long.models) as opened:
        await measure(opened, long, settings(n), n, n_rounds)
    looped = {"main": Model("sounder", max_context_tokens=256)}
    short = Case(
        looped, Sampling(temperature=1.0, top_p=1.0, max_new_tokens=16, depth=3), rows("sounder")
    )
    votes = {
        name: spec
        for name, spec in settings(n).items()
        if name.startswith(("consistency", "sounding"))
    }
    # a puzzle's right answers are no shorter than its wrong ones
    votes["sounding flat"] = sounding(n, 0.15, slope=0.0)
    async with engine(2 * n, short.models) as opened:
        await measure(opened, short, votes, n, n_rounds)


@dataclass(frozen=True, slots=True)
class Case:
    """A model, its sampling, and its problems."""

    models: Mapping[str, Model]
    sampling: Sampling
    rows: Sequence[dict[str, str]]


def rows(name: str) -> list[dict[str, str]]:
    """Return the problems of an example."""
    return [
        json.loads(line)
        for line in Path(__file__)
        .parents[1]
        .joinpath(f"examples/{name}.jsonl")
        .read_text()
        .splitlines()
    ]


async def measure(
    opened: Opened,
    case: Case,
    strategies: Mapping[str, tuple[PluginSpec, PluginSpec]],
    n: int,
    n_rounds: int,
) -> None:
    """Measure every strategy and print one line per strategy and round."""
    print(f"{case.models['main'].path}: {len(case.rows)} problems, n = {n}")
    problems = [Problem(row["id"], row["prompt"], "number") for row in case.rows]
    references = {row["id"]: row["answer"] for row in case.rows}
    opened.count_late_tokens()
    await job(
        Plan(
            case.models,
            PluginSpec("consistency", {"n": 2}),
            MAJORITY,
            replace(case.sampling, max_new_tokens=8),
        ),
        problems,
        opened,
        2 * n,
    )
    for number in range(n_rounds):
        whole: Run | None = None
        for name, (strategy, selector) in strategies.items():
            opened.late.clear()
            opened.n_made = 0
            run = await job(
                Plan(case.models, strategy, selector, case.sampling, seed=number),
                problems,
                opened,
                2 * n,
            )
            whole = whole or run
            show(name, run, whole, opened, references)


def show(name: str, run: Run, whole: Run, opened: Opened, references: dict[str, str]) -> None:
    """Print one strategy's line."""
    domain = registry.load("domains", PluginSpec("number"))
    right = {
        r.problem_id: r.answer is not None
        and domain.canonical(r.answer.text) == domain.canonical(references[r.problem_id])
        for r in run.results
    }
    found = share_estimate(list(right.values()))
    assert found is not None
    stopped = run.of(Finish.CANCELLED, Finish.RULE)
    late = max(opened.late.values(), default=0)
    mean = statistics.mean(t.usage.output_tokens for t in stopped) if stopped else 0
    print(
        f"{name:17s} {run.output_tokens:6,} tokens "
        f"({1 - run.output_tokens / whole.output_tokens:+6.1%} saved)  "
        f"{run.seconds:6.1f} s ({1 - run.seconds / whole.seconds:+6.1%} saved)  "
        f"{run.cpu_seconds:6.1f} CPU s ({1 - run.cpu_seconds / whole.cpu_seconds:+6.1%} saved)  "
        f"accuracy {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] of {found.n}  "
        f"{len(stopped)} stopped at {mean:.0f} tokens, then at most {late} more (vLLM made "
        f"{opened.n_made:,} in all)",
        flush=True,
    )


if __name__ == "__main__":
    main()
