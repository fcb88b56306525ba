"""A job's tokens shared out on a live vLLM, against rules that decide each question by itself.

    python benchmarks/job_budget.py [--model sounder] [--depth 3] [--n 16] [--puzzles 0]

A shipped looped model solves puzzles at a depth that is too small for the longer ones, so that
votes decide. `consistency` makes n attempts for every puzzle. All others have a third of its
tokens: fewer attempts for every puzzle; `adaptive` and `sounding`, at the confidence and the risk
at which they cost a third on as many other puzzles (found by their tokens alone); and
`budget.job_tokens` with n and with four times as many attempts at most. Rules take turns; each
round has seeds of its own. Intervals of 95 % are over puzzles, of the mean of a puzzle's rounds;
differences are paired by puzzle.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from live import Opened, Run, engine, job
from prune import rows, sounding

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec, Problem, Result, Sampling
from orchestrator.plan import registry
from orchestrator.plan.execution import JobBudget
from orchestrator.studies.estimates import Estimate, mean_estimate

# Of a shipped model's problems: hops, and the most tokens of a completion.
SHIPPED = {"sounder": (range(2, 9), 16), "fathom": (range(4, 17), 50)}
SHARE = 1 / 3
WINDOW = 32
N_HALVINGS = 7  # of the interval of a rule's option
MEASURED_SEED, OTHER_SEED = 2027, 2028  # of drawn puzzles; 2026 is that of the example


@dataclass(frozen=True, slots=True)
class Rule:
    """A strategy with its selector; `is_shared` where the job has a budget."""

    strategy: PluginSpec
    selector: PluginSpec = PluginSpec("majority")
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """An open engine and the sampling of all runs."""

    models: dict[str, Model]
    backend: Opened
    sampling: Sampling

    async def run(
        self, rule: Rule, puzzles: Sequence[dict[str, str]], seed: int, job_tokens: int = 0
    ) -> Run:
        """Run a job of these puzzles under a rule."""
        problems = [Problem(row["id"], row["prompt"], "number") for row in puzzles]
        plan = Plan(self.models, rule.strategy, rule.selector, self.sampling, seed=seed)
        return await job(plan, problems, self.backend, WINDOW, JobBudget(job_tokens=job_tokens))


def consistency(n: int, *, is_shared: bool = False) -> Rule:
    """Return n attempts for every puzzle, or as many as a job's budget allows."""
    return Rule(PluginSpec("consistency", {"n": n}), is_shared=is_shared)


def adaptive(n: int, confidence: float) -> Rule:
    """Return Adaptive-Consistency as published: one attempt after another."""
    options = {"n": n, "confidence": confidence, "wave": 1, "growth": 1}
    return Rule(PluginSpec("adaptive", options))


async def at_a_share(
    bench: Bench, rule: Callable[[float], Rule], puzzles: Sequence[dict[str, str]], n_tokens: float
) -> Rule:
    """Return the rule with the option in (0, 1) at which it costs so many tokens, or just fewer.

    Tokens must not fall with the option.
    """
    low, high = 0.0, 1.0
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        run = await bench.run(rule(middle), puzzles, OTHER_SEED)
        low, high = (middle, high) if run.output_tokens <= n_tokens else (low, middle)
    return rule(low or high)


async def measure(name: str, depth: int, n: int, n_puzzles: int, n_rounds: int) -> None:
    """Calibrate, run and print."""
    measured = drawn(name, n_puzzles, MEASURED_SEED) if n_puzzles else rows(name)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=SHIPPED[name][1], depth=depth)
    models = {"main": Model(name, max_context_tokens=256)}
    async with engine(WINDOW, models) as backend:
        bench, other = Bench(models, backend, sampling), drawn(name, len(measured), OTHER_SEED)
        whole = await bench.run(consistency(n), other, OTHER_SEED)
        third = whole.output_tokens * SHARE

        def by_confidence(certainty: float) -> Rule:
            return adaptive(n, (1 + certainty) / 2)

        def by_risk(certainty: float) -> Rule:
            return Rule(*sounding(n, 1 - certainty, slope=0.0))

        rules = {
            "consistency": consistency(n),
            "fewer attempts": consistency(round(n * SHARE)),
            "adaptive": await at_a_share(bench, by_confidence, other, third),
            "sounding": await at_a_share(bench, by_risk, other, third),
            "job_tokens": consistency(n, is_shared=True),
            "job_tokens, 4n": consistency(4 * n, is_shared=True),
        }
        runs = defaultdict[str, list[Run]](list)
        for seed in range(n_rounds):
            for name, rule in rules.items():
                limit = runs["consistency"][seed].output_tokens * SHARE if rule.is_shared else 0
                runs[name].append(await bench.run(rule, measured, seed, round(limit)))
    show(rules, runs, measured)


def show(
    rules: dict[str, Rule], runs: dict[str, list[Run]], puzzles: Sequence[dict[str, str]]
) -> None:
    """Print a line for each rule."""
    whole = rights(runs["consistency"], puzzles)
    n_whole = sum(run.output_tokens for run in runs["consistency"])
    for name, rule in rules.items():
        right = rights(runs[name], puzzles)
        tokens = [run.output_tokens for run in runs[name]]
        loss = mean_estimate([a - b for a, b in zip(right, whole, strict=True)])
        print(
            f"{name:15s} {sum(tokens) / len(tokens):8,.0f} tokens ({sum(tokens) / n_whole:.3f})  "
            f"right {in_percent(mean_estimate(right))}  against consistency {in_percent(loss)}  "
            f"{sum(run.seconds for run in runs[name]):.1f} s  {dict(rule.strategy.options)}",
            flush=True,
        )


def rights(runs: Sequence[Run], puzzles: Sequence[dict[str, str]]) -> list[float]:
    """Return for each puzzle the share of the runs whose answer is right."""
    domain = registry.load("domains", PluginSpec("number"))
    wanted = {row["id"]: domain.canonical(row["answer"]) for row in puzzles}

    def is_right(result: Result) -> bool:
        found = result.answer
        return found is not None and domain.canonical(found.text) == wanted[result.problem_id]

    n_right = dict.fromkeys(wanted, 0)
    for result in (result for run in runs for result in run.results):
        n_right[result.problem_id] += is_right(result)
    return [n / len(runs) for n in n_right.values()]


def in_percent(found: Estimate) -> str:
    """Return an estimate in % with its interval."""
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f}"
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def drawn(name: str, n: int, seed: int) -> list[dict[str, str]]:
    """Return n held-out puzzles of a shipped model."""
    folder = str(Path(__file__).parents[1] / "examples" / "training")
    if folder not in sys.path:
        sys.path.append(folder)
    from puzzles import draw_problems
    from recipes import RECIPES

    return list(draw_problems(RECIPES[name], n, seed, SHIPPED[name][0]))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHIPPED, default="sounder")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--puzzles", type=int, default=0, help="0: those of the example")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    asyncio.run(measure(options.model, options.depth, options.n, options.puzzles, options.rounds))


if __name__ == "__main__":
    main()
