"""Published sample counts and accuracies on the released Best-of-infinity answer pools, through the project's own strategies.

    python benchmarks/pools.py POOLS_DIRECTORY [--repeats 20]

For each pool (a file of questions with 80 or more recorded answers) every question is answered `repeats` times by resampling from its pool
with replacement: fixed n, Adaptive-Consistency, ESC and the Bayes-factor rule, each run by a Session as in a live job.
Prints accuracy and mean number of traces with the standard deviation over repeats. Answers are compared as strings, as the pools'
authors do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import registry
from orchestrator.core.outcome import conclude
from orchestrator.core.plan import Plan, derive_seed
from orchestrator.core.session import Session, Start
from orchestrator.core.types import Answer, PluginSpec, Problem, Trace, Usage

SETTINGS = {
    "fixed 1": PluginSpec("consistency", {"n": 1}),
    "fixed 10": PluginSpec("consistency", {"n": 10}),
    "fixed 100": PluginSpec("consistency", {"n": 100}),
    "beta .95 (AC), max 40": PluginSpec("adaptive", {"rule": "beta", "n": 40, "wave": 1, "growth": 1}),
    "window 5 (ESC), max 40": PluginSpec("adaptive", {"rule": "window", "n": 40, "window": 5, "wave": 5, "growth": 1}),
    "bayes 10, max 100": PluginSpec("adaptive", {"rule": "bayes", "bayes_factor": 10, "n": 100, "wave": 1, "growth": 1}),
    "bayes 30, max 100": PluginSpec("adaptive", {"rule": "bayes", "bayes_factor": 30, "n": 100, "wave": 1, "growth": 1}),
    "bayes 100, max 100": PluginSpec("adaptive", {"rule": "bayes", "bayes_factor": 100, "n": 100, "wave": 1, "growth": 1}),
}


@dataclass(frozen=True, slots=True)
class Question:
    """Recorded answers, of shape (n_answers,), and the reference."""

    answers: tuple[str, ...]
    gold: str


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy and mean traces per question over all questions: mean and standard deviation over repeats."""

    accuracy: float
    accuracy_sd: float
    n_traces: float
    n_traces_sd: float


def read_pool(path: Path) -> list[Question]:
    """Return a pool's questions."""
    with gzip.open(path, "rt") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    return [Question(tuple(str(a) for a, _ in row["all_answers"]), str(row["gold_answer"])) for row in rows]


def measure(questions: list[Question], spec: PluginSpec, n_repeats: int) -> Point:
    """Return what a strategy reaches on a pool."""
    accuracies, counts = [], []
    for repeat in range(n_repeats):
        outcomes = [_answer(q, f"q{i}", spec, repeat) for i, q in enumerate(questions)]
        accuracies.append(statistics.mean(right for right, _ in outcomes))
        counts.append(statistics.mean(n for _, n in outcomes))
    spread = statistics.stdev if n_repeats > 1 else (lambda values: 0.0)
    return Point(statistics.mean(accuracies), spread(accuracies), statistics.mean(counts), spread(counts))


def _answer(question: Question, name: str, spec: PluginSpec, repeat: int) -> tuple[bool, int]:
    plan = Plan(strategy=spec, seed=repeat)
    problem = Problem(name, name)
    session = Session(problem, registry.load("strategies", spec), plan)
    rng = random.Random(derive_seed(repeat, name, "pool"))
    waiting = session.start()
    while waiting:
        effect = waiting.pop(0)
        if isinstance(effect, Start) and effect.request.ordinal in session.running:
            text = rng.choice(question.answers)
            answer = Answer(text, text) if text else None
            waiting += session.receive(Trace(effect.request.ordinal, answer=answer, usage=Usage(output_tokens=1)))
    result = conclude(problem, list(session.traces.values()), registry.load("selectors", PluginSpec("majority")))
    return result.answer is not None and result.answer.key == question.gold, len(session.traces)


def main() -> None:
    """Measure every pool in a directory and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path)
    parser.add_argument("--only", default="*gpt-oss-20b*", help="glob of the pools to measure (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    for path in sorted(options.pools.glob(f"{options.only}.jsonl.gz")):
        questions = read_pool(path)
        print(f"\n{path.name.removesuffix('.jsonl.gz')}: {len(questions)} questions, {options.repeats} repeats")
        for name, spec in SETTINGS.items():
            point = measure(questions, spec, options.repeats)
            print(
                f"  {name:24s} accuracy {point.accuracy:.3f} ± {point.accuracy_sd:.3f}"
                f"   traces {point.n_traces:6.2f} ± {point.n_traces_sd:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
