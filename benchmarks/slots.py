"""Measures what it costs that the iterations of a looped model share KV slots (`kv_iterations`).

    python benchmarks/slots.py [--model sounder] [--depth 8] [--slots 0,1,2,4] [--samples 8]
      [--rounds 3]

One vLLM engine for each number of slots (0: one for each iteration) and each rule for writing them,
on the model's own problems. Prints the KV cache of a token, right answers (greedy, and the mean
share of samples at temperature 1), and two rates: of prompt tokens, where all problems end after
their first new token, and of new tokens, where each has `--tokens`, with the time of the prompts
taken off. Ratios are taken within a round. Seconds are CPU seconds of the process, as in
`depth.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
from pathlib import Path
from typing import Any

import depth  # first: it sets vLLM's environment

from orchestrator.core.plan import Model
from orchestrator.plan.looped import DEPTH_ARGUMENT, KV_WRITES

PROBLEMS = Path(__file__).parents[1] / "examples" / "sounder.jsonl"
MAX_NEW_TOKENS = 16


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sounder")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--slots", default="0,1,2,4")
    parser.add_argument("--samples", type=int, default=8, help="per problem, at temperature 1")
    parser.add_argument("--tokens", type=int, default=32, help="new ones, for the rate of new ones")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines() if line]
    settings = [
        (n, writes)
        for n in map(int, options.slots.split(","))
        for writes in (KV_WRITES if n else ("",))
    ]
    print(
        "| slots | written by | bytes a token | greedy | samples | prompt tokens/s | new tokens/s |"
        "\n|---|---|---|---|---|---|---|"
    )
    for n, writes in settings:
        model = Model(options.model, max_depth=options.depth, kv_iterations=n, kv_writes=writes)
        engine = depth.opened(model)
        print(line(engine, n, writes, rows, options), flush=True)
        del engine
        gc.collect()


def line(engine: Any, n: int, writes: str, rows: list[dict[str, Any]], options: Any) -> str:
    """Return the table's line of one engine."""
    greedy = right(engine, rows, options.depth, 1, 0.0)
    sampled = right(engine, rows, options.depth, options.samples, 1.0) / options.samples
    some = rows[:64]
    n_prompt = sum(len(ids) for ids in prompts(engine, some))
    rates: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        first = seconds(engine, some, options.depth, 1)
        whole = seconds(engine, some, options.depth, options.tokens)
        n_new = len(some) * (options.tokens - 1)
        rates.append((n_prompt / first, n_new / (whole - first)))
    shown = [
        f"{statistics.median(r):.0f} ({min(r):.0f} to {max(r):.0f})"
        for r in zip(*rates, strict=True)
    ]
    return (
        f"| {n or 'own'} | {writes or 'each'} | {depth.bytes_per_token(engine)} | "
        f"{greedy:.0f} of {len(rows)} | {100 * sampled / len(rows):.1f} % | {' | '.join(shown)} |"
    )


def prompts(engine: Any, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Return the tokens of each problem."""
    tokenizer = engine.get_tokenizer()
    return [tokenizer.encode(row["prompt"]) for row in rows]


def right(
    engine: Any, rows: list[dict[str, Any]], at_depth: int, n: int, temperature: float
) -> float:
    """Return how many of `n` completions of each problem end with its answer."""
    from vllm import SamplingParams

    inputs = [{"prompt_token_ids": ids} for ids in prompts(engine, rows) for _ in range(n)]
    params = [
        SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=MAX_NEW_TOKENS,
            extra_args={DEPTH_ARGUMENT: at_depth},
        )
        for seed in range(len(inputs))
    ]
    outputs = engine.generate(inputs, params, use_tqdm=False)
    answers = [row["answer"] for row in rows for _ in range(n)]
    return sum(
        bool(re.search(rf"\b{re.escape(answer)}\W*$", output.outputs[0].text))
        for answer, output in zip(answers, outputs, strict=True)
    )


def seconds(engine: Any, rows: list[dict[str, Any]], at_depth: int, n_tokens: int) -> float:
    """Return the seconds in which an engine writes so many tokens for each problem."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0,
        max_tokens=n_tokens,
        ignore_eos=True,
        detokenize=False,
        extra_args={DEPTH_ARGUMENT: at_depth},
    )
    inputs = [{"prompt_token_ids": ids} for ids in prompts(engine, rows)]
    began = depth.clock()
    engine.generate(inputs, params, use_tqdm=False)
    return depth.clock() - began


if __name__ == "__main__":
    main()
