"""Compares noise on latent states with temperature, as what makes attempts differ, by their votes.

    python benchmarks/latent_noise.py [--model sounder] [--depths 3,4] [--widths 1,4,16]
      [--settings 1:0,0:0.1,0:0.2,0:0.4,0:0.8,1:0.2]

Each setting is a temperature and a size of `sampling.latent_noise`. Prints, for the model's own
problems: the accuracy of one attempt (mean of all) and of votes (of `--groups` random groups of
attempts, ties by the first), different answers of the largest group, the share of problems with the
right answer in it, and layer-tokens of an attempt. So rows of a depth compare at equal width and,
where these are equal, at equal layer-tokens. One vLLM engine, all attempts at once.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import depth  # first: it sets vLLM's environment

from orchestrator.core.plan import Model
from orchestrator.plan.looped import DEPTH_ARGUMENT, NOISE_ARGUMENT

PROBLEMS = Path(__file__).parents[1] / "examples" / "sounder.jsonl"
MAX_NEW_TOKENS = 16
SETTINGS = "1:0,0:0.05,0:0.1,0:0.2,0:0.4,0:0.8,1:0.1,1:0.4"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sounder")
    parser.add_argument("--depths", default="3,4")
    parser.add_argument("--widths", default="1,4,16")
    parser.add_argument("--settings", default=SETTINGS, help="temperature:noise")
    parser.add_argument("--groups", type=int, default=16, help="of attempts, for each width")
    options = parser.parse_args()
    widths = [int(n) for n in options.widths.split(",")]
    rows = [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines() if line]
    model = Model(options.model)
    latent = depth.configured(model)
    assert latent is not None
    engine = depth.opened(model)
    votes = " | ".join(f"vote of {n}" for n in widths[1:])
    print(f"| depth | temperature | noise | one | {votes} | answers | covered | layer-tokens |")
    print("|---" * (7 + len(widths[1:])) + "|")
    for at_depth in map(int, options.depths.split(",")):
        for setting in options.settings.split(","):
            temperature, noise = map(float, setting.split(":"))
            found, n_tokens = attempts(engine, rows, at_depth, max(widths), temperature, noise)
            own = [accuracy(rows, found, n, options.groups) for n in widths]
            n_answers = statistics.mean(len(set(answers)) for answers in found)
            covered = statistics.mean(
                row["answer"] in answers for row, answers in zip(rows, found, strict=True)
            )
            cells = [f"{100 * share:.1f}" for share in own]
            print(
                f"| {at_depth} | {temperature:g} | {noise:g} | {' | '.join(cells)} | "
                f"{n_answers:.2f} | {100 * covered:.1f} | "
                f"{n_tokens * latent.schedule.n_layers_run(at_depth):.0f} |",
                flush=True,
            )


def attempts(
    engine: Any,
    rows: list[dict[str, Any]],
    at_depth: int,
    n: int,
    temperature: float,
    noise: float,
) -> tuple[list[list[str]], float]:
    """Return `n` answers to each problem, and the mean number of an attempt's own tokens."""
    from vllm import SamplingParams

    tokenizer = engine.get_tokenizer()
    arguments = {DEPTH_ARGUMENT: at_depth} | ({NOISE_ARGUMENT: noise} if noise else {})
    inputs = [
        {"prompt_token_ids": tokenizer.encode(row["prompt"])} for row in rows for _ in range(n)
    ]
    params = [
        SamplingParams(
            temperature=temperature, seed=seed, max_tokens=MAX_NEW_TOKENS, extra_args=arguments
        )
        for seed in range(len(inputs))
    ]
    outputs = [one.outputs[0] for one in engine.generate(inputs, params, use_tqdm=False)]
    answers = [answer(output.text) for output in outputs]
    by_problem = [answers[i : i + n] for i in range(0, len(answers), n)]
    return by_problem, statistics.mean(len(output.token_ids) for output in outputs)


def answer(text: str) -> str:
    """Return the last word of an attempt."""
    words = re.findall(r"\w+", text)
    return words[-1] if words else ""


def accuracy(
    rows: list[dict[str, Any]], found: list[list[str]], width: int, n_groups: int
) -> float:
    """Return the mean accuracy of votes of `width` attempts; of all attempts for width 1."""
    rng = random.Random(0)
    right = []
    for row, answers in zip(rows, found, strict=True):
        n = len(answers) // width if width in (1, len(answers)) else n_groups
        for i in range(n):
            whole = width in (1, len(answers))
            group = answers[i * width : (i + 1) * width] if whole else rng.sample(answers, width)
            right.append(Counter(group).most_common(1)[0][0] == row["answer"])
    return statistics.mean(right)


if __name__ == "__main__":
    main()
