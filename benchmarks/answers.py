r"""Measures the reading of mathematics: how often it is right, how fast, and whether order matters.

    python benchmarks/answers.py [TRACES]

- Pairs of the suite in `tests/verifiers/answers/cases` that are decided rightly, by the `math`
  domain and by plain math-verify (asked in both directions, five seconds each).
- Processor time for the classes of 64 distinct answers of the suite that are neither a number nor
  words, and of the same for comparing pairs with math-verify, on fewer answers.
- Time for an answer whose class is known, with and without finding it in its reply.
- With TRACES (recorded pools of others, not part of this repository; default $LEADLINE_TRACES,
  else ../shared/traces): for each question, classes and majority in 20 random orders, and the
  questions whose majority is right by our classes and by the texts alone.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import math_verify
from scipy import stats

from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Request, Trace
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from verifiers.answers.math import Math

CASES = Path(__file__).resolve().parents[1] / "tests" / "verifiers" / "answers" / "cases"
N_ANSWERS, N_ORDERS, N_SAMPLES, N_PAIRED = 64, 20, 5, 16


def main() -> None:
    """Print all parts."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    domain = Math()
    domain.warm_up()
    cases = [json.loads(line) for path in sorted(CASES.glob("*.jsonl")) for line in path.open()]
    pairs = [c for c in cases if c["kind"] == "equivalent" and c["domain"] == "math"]
    agreement(domain, pairs)
    speed(domain, list(dict.fromkeys(text for c in pairs for text in (c["a"], c["b"]))))
    asyncio.run(known())
    default = os.environ.get("LEADLINE_TRACES", CASES.parents[4] / "shared" / "traces")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    if folder.exists():
        asyncio.run(orders(pools(folder)))


def agreement(domain: Math, pairs: Sequence[dict[str, object]]) -> None:
    """Print how many pairs each decides rightly, those that are one and those that are not."""
    for right in (True, False):
        chosen = [(str(c["a"]), str(c["b"])) for c in pairs if c["right"] is right]
        ours = sum(domain.equivalent(a, b) is right for a, b in chosen)
        theirs = sum(verified(a, b) is right for a, b in chosen)
        for name, n_right in (("leadline", ours), ("math-verify", theirs)):
            low, high = stats.binomtest(n_right, len(chosen)).proportion_ci(method="wilson")
            print(
                f"{'one' if right else 'two'}: {name} {n_right} of {len(chosen)} "
                f"({n_right / len(chosen):.1%}, {low:.1%} to {high:.1%})"
            )


def verified(a: str, b: str) -> bool:
    """Return what math-verify says in either direction; False where it fails."""
    left, right = (math_verify.parse(f"${text}$", parsing_timeout=5) for text in (a, b))
    return any(
        math_verify.verify(x, y, timeout_seconds=5) for x, y in ((left, right), (right, left))
    )


def speed(domain: Math, texts: Sequence[str]) -> None:
    """Print the processor time of finding classes by keys, and by comparing pairs."""
    messy = [text for text in texts if not domain.canonical(text).startswith("=")]
    seconds = []
    for seed in range(N_SAMPLES):
        sample = random.Random(seed).sample(messy, N_ANSWERS)
        began = time.process_time()
        for text in sample:
            domain.resolve(text)
        seconds.append(time.process_time() - began)
    print(
        f"classes of {N_ANSWERS} distinct answers of {len(messy)}: median "
        f"{statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s "
        f"({N_SAMPLES} samples)"
    )
    sample = random.Random(0).sample(messy, N_PAIRED)
    began = time.process_time()
    for text in sample:
        domain.resolve(text)
    keyed = time.process_time() - began
    began = time.process_time()
    first: list[str] = []
    for text in sample:
        if not any(verified(text, other) for other in first):
            first.append(text)
    paired = time.process_time() - began
    print(
        f"{N_PAIRED} of them: {keyed:.3f} s by keys, {paired:.2f} s by comparing pairs with "
        f"math-verify: {paired / keyed:.0f} times as long"
    )


async def known() -> None:
    """Print the time for an answer whose class is known already."""
    problem, classes = Problem("q", "", domain="math"), Classes()
    trace = Trace(0, text=r"So the answer is \boxed{\frac{\sqrt{3}}{2}+\pi}.")
    async with aclosing(AnswerWorkers()) as workers:
        annotator = Annotator(Plan(domain="math"), workers)
        await annotator.annotate(problem, Request(), trace, classes)
        began = time.process_time()
        for _ in range(2_000):
            await annotator.annotate(problem, Request(), trace, classes)
        whole = (time.process_time() - began) / 2_000
    domain = Math()
    began = time.process_time()
    for _ in range(2_000):
        domain.extract(trace.text, True)
    reading = (time.process_time() - began) / 2_000
    print(
        f"an answer of a known class: {1e6 * (whole - reading):.0f} µs, and {1e6 * reading:.0f} µs "
        "to find it in the reply"
    )


def pools(folder: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """Return the reference and the answers of each question, by file."""
    found = {}
    for path in sorted((folder / "answer-pools").glob("*.jsonl.gz")):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        found[path.name.removesuffix(".jsonl.gz")] = [
            (str(row["gold_answer"]), [str(answer) for answer, _ in row["all_answers"]])
            for row in rows
            if row.get("all_answers")
        ]
    for path in sorted((folder / "qwen2.5-1.5b").glob("*bestofn*.json.gz")):
        records = json.loads(gzip.decompress(path.read_bytes()))["records"]
        found[path.name.removesuffix(".json.gz")] = [
            (r["gold"], ["\n" + str(t["text"]) for t in r["traces"]]) for r in records
        ]
    return found


async def orders(files: dict[str, list[tuple[str, list[str]]]]) -> None:
    """Print, by file, in how many questions order matters, and whose majority is right."""
    async with aclosing(AnswerWorkers()) as workers:
        annotator = Annotator(Plan(domain="math"), workers)
        for name, questions in files.items():
            began = time.perf_counter()
            n_differ, n_ours, n_texts = 0, 0, 0
            for reference, answers in questions:
                outcomes = [
                    await outcome(annotator, random.Random(seed).sample(answers, len(answers)))
                    for seed in range(N_ORDERS)
                ]
                n_differ += len({(size, votes) for size, votes, _ in outcomes}) > 1
                n_ours += await annotator.same("math", outcomes[0][2], reference)
                text = Counter(answers).most_common(1)[0][0]
                n_texts += await annotator.same("math", text, reference)
            print(
                f"{name}: {len(questions)} questions, order matters in {n_differ}; majority right "
                f"in {n_ours} by classes, {n_texts} by texts ({time.perf_counter() - began:.1f} s)"
            )


async def outcome(annotator: Annotator, answers: Sequence[str]) -> tuple[int, int, str]:
    """Return the number of classes, the votes of the largest, and the least text of that class.

    Whole replies begin with a line break; the others are bare answers.
    """
    problem, classes = Problem("q", "", domain="math"), Classes()
    votes: Counter[str] = Counter()
    texts: dict[str, list[str]] = {}
    for answer in answers:
        text = answer if answer.startswith("\n") else rf"\boxed{{{answer}}}"
        trace = await annotator.annotate(problem, Request(), Trace(0, text=text), classes)
        if trace.answer is not None:
            votes[trace.answer.key] += 1
            texts.setdefault(trace.answer.key, []).append(trace.answer.text)
    if not votes:
        return 0, 0, ""
    most = max(votes.values())
    winner = min(min(texts[key]) for key, n in votes.items() if n == most)
    return len(votes), most, winner


if __name__ == "__main__":
    main()
