"""Measures warm starts (`warm_start`) under exit rules: iterations saved, and answers kept.

    python benchmarks/warm_starts.py [--model sounder] [--depth 8] [--shares 0.05,0.1,0.2,0.3]
      [--rules "state<0.6" "kl<0.05" ...] [--problems 119]

For each rule and share one vLLM engine completes every problem twice, greedily: cold and warm, in
one batch. Prints right answers, iterations per generated token, the mean difference of a problem's
iterations per token, warm minus cold, with its 95 % interval (bootstrap over problems), and the
problems that only one of both has right. The last token of a prompt, which predicts the first new
one, always starts cold and counts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
from pathlib import Path
from typing import Any

import depth  # first: it sets vLLM's environment

from orchestrator.core.plan import Model
from orchestrator.plan.looped import DEPTH_ARGUMENT, WARM_ARGUMENT

PROBLEMS = Path(__file__).parents[1] / "examples" / "sounder.jsonl"
RULES = ("", "state<0.6", "state<0.35", "state<0.2", "kl<0.05", "kl<5e-4")
MAX_NEW_TOKENS = 16
AT_ONCE = 24  # few enough that no prompt is read in pieces
N_RESAMPLED = 2000


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sounder")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--shares", default="0.05,0.1,0.2,0.3")
    parser.add_argument("--rules", nargs="*", default=RULES)
    parser.add_argument("--problems", type=int, default=119)
    options = parser.parse_args()
    lines = PROBLEMS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][: options.problems]
    print(
        "| rule | share | right, cold | warm | iterations, cold | warm | difference (95 %) "
        "| only cold right | only warm |\n|---|---|---|---|---|---|---|---|---|"
    )
    for rule in options.rules:
        for share in map(float, options.shares.split(",")):
            print(line(rule, share, rows, options), flush=True)


def line(rule: str, share: float, rows: list[dict[str, Any]], options: Any) -> str:
    """Return the table's line of a rule and a share."""
    model = Model(options.model, max_depth=options.depth, exit=rule, warm_start=share)
    held = [depth.opened(model)]
    cold, warm = (completed(held[0], rows, options.depth, is_warm) for is_warm in (False, True))
    held.clear()
    right = [[one[0] for one in side] for side in (cold, warm)]
    means = [sum(sum(one[1]) for one in s) / sum(len(one[1]) for one in s) for s in (cold, warm)]
    gaps = [statistics.mean(w[1]) - statistics.mean(c[1]) for c, w in zip(cold, warm, strict=True)]
    low, high = interval(gaps)
    only_cold = sum(c and not w for c, w in zip(*right, strict=True))
    only_warm = sum(w and not c for c, w in zip(*right, strict=True))
    return (
        f"| {f'`{rule}`' if rule else 'none'} | {share:g} | {sum(right[0])} | {sum(right[1])} | "
        f"{means[0]:.2f} | {means[1]:.2f} | {statistics.mean(gaps):+.2f} "
        f"({low:+.2f} to {high:+.2f}) | {only_cold} | {only_warm} |"
    )


def completed(
    engine: Any, rows: list[dict[str, Any]], at_depth: int, is_warm: bool
) -> list[tuple[bool, list[int]]]:
    """Return for each problem whether the answer is right, and its tokens' iterations."""
    from vllm import SamplingParams

    tokenizer = engine.get_tokenizer()
    inputs = [{"prompt_token_ids": tokenizer.encode(row["prompt"])} for row in rows]
    params = SamplingParams(
        temperature=0,
        max_tokens=MAX_NEW_TOKENS,
        extra_args={DEPTH_ARGUMENT: at_depth} | ({WARM_ARGUMENT: True} if is_warm else {}),
    )
    outputs = [
        output
        for i in range(0, len(inputs), AT_ONCE)
        for output in engine.generate(inputs[i : i + AT_ONCE], params, use_tqdm=False)
    ]
    worker = engine.llm_engine.model_executor.driver_worker.worker
    ledger = worker.model_runner.get_model().loop.ledger
    # the worker's name of a request is ours with a tail
    counts = {name.rsplit("-", 1)[0]: ledger.take(name) for name in list(ledger._counts)}
    found = []
    for row, output in zip(rows, outputs, strict=True):
        own = output.outputs[0]
        is_right = bool(re.search(rf"\b{re.escape(row['answer'])}\W*$", own.text))
        count = counts.get(output.request_id)
        found.append((is_right, count.each if count else [at_depth] * len(own.token_ids)))
    return found


def interval(gaps: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by resampling problems."""
    rng = random.Random(0)
    means = sorted(statistics.mean(rng.choices(gaps, k=len(gaps))) for _ in range(N_RESAMPLED))
    return means[N_RESAMPLED // 40], means[-N_RESAMPLED // 40]


if __name__ == "__main__":
    main()
