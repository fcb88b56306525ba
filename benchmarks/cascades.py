"""Measures depth cascades on the shipped looped model: what they cost, and what they save.

    python benchmarks/cascades.py [--depth 16] [--early 2] [--rounds 3] [--tokens 96] [--width 8]
      [--problems 119] [--rules ...]
    python benchmarks/cascades.py --exits "entropy<0.1" "agreement>=3" [--problems 119]

For each rule and threshold: right answers of the shipped model, greedy and at temperature 1 with
the same seeds; how many drafts were kept while they were written; and layers run per generated
token, those of drafts and of rejected tokens included. Then the tokens per CPU second of a request
alone, in replies of `--tokens`, with the model widened as in `depth.py`, against the engine without
drafts and without a cascade, in the same round. The first two lines are that engine, and drafts
alone. For right answers drafts are written in any batch, as if it were never full.

With `--exits`: right answers under exit rules in the engine, greedy, and the iterations of each
generated token, where `exits.py` has the same in plain PyTorch, too slow for rules on predictions.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from depth import DEPTH_ARGUMENT, PUZZLES, configured, opened, shown, taken_drafts, written
from widened import widened

from orchestrator.core.layers import parse_cascade
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.options import Vllm
from orchestrator.plan.looped import Latent
from orchestrator.plan.models import resolve_model

RULES = (
    *("chow 0.1", "chow 0.3", "chow 0.5", "diff 0", "diff 0.1", "diff 0.3"),
    *("opt 0.1", "opt 0.3", "opt 0.5", "token 0.1", "token 0.5", "token 0.9"),
)
MAX_NEW_TOKENS = 16
AT_ONCE = 24


def right(engine: Any, n: int, depth: int, temperature: float) -> tuple[int, int]:
    """Return how many of the first `n` puzzles an engine answers correctly, and its tokens."""
    from vllm import SamplingParams

    rows = [json.loads(line) for line in PUZZLES.read_text(encoding="utf-8").splitlines()][:n]
    tokenizer = engine.get_tokenizer()
    prompts = [{"prompt_token_ids": tokenizer.encode(row["prompt"])} for row in rows]
    params = [
        SamplingParams(
            temperature=temperature,
            seed=i,
            max_tokens=MAX_NEW_TOKENS,
            extra_args={DEPTH_ARGUMENT: depth},
        )
        for i in range(n)
    ]
    # few enough that no prompt is read in pieces, which vLLM's CPU build cannot with seeds
    parts = [slice(i, i + AT_ONCE) for i in range(0, n, AT_ONCE)]
    outputs = [
        output
        for part in parts
        for output in engine.generate(prompts[part], params[part], use_tqdm=False)
    ]
    texts = [output.outputs[0].text for output in outputs]
    n_right = sum(
        bool(re.search(rf"\b{re.escape(row['answer'])}\W*$", text))
        for row, text in zip(rows, texts, strict=True)
    )
    return n_right, sum(len(output.outputs[0].token_ids) for output in outputs)


def exit_line(rule: str, options: argparse.Namespace) -> str:
    """Return the table's line of an exit rule."""
    held = [opened(Model("sounder", exit=rule))]
    n_right, _ = right(held[0], options.problems, options.depth, 0.0)
    worker = held[0].llm_engine.model_executor.driver_worker.worker
    ledger = worker.model_runner.get_model().loop.ledger
    counts = [one for name in list(ledger._counts) if (one := ledger.take(name))]
    held.clear()
    n, n_all = sum(c.tokens for c in counts), sum(c.prompt_tokens + c.tokens for c in counts)
    own = sum(c.iterations for c in counts)
    every = own + sum(c.prompt_iterations for c in counts)
    latent = configured(Model("sounder"))
    assert latent is not None
    layers = latent.schedule.n_layers_run(0) + len(latent.schedule.think) * every / n_all
    return f"| `{rule}` | {n_right} of {options.problems} | {own / n:.2f} | {layers:.2f} |"


def line(rule: str, drafts: bool, folder: Path, plain: Any, options: argparse.Namespace) -> str:
    """Return the table's line of a rule; "" is none."""
    cascade = f"{rule} at {options.early}" if rule else ""
    small = Model("sounder", cascade=cascade)
    latent = configured(small)
    assert latent is not None
    engine = Vllm(draft_depth=options.early if drafts else 0, draft_step_tokens=4096)
    held = [opened(small, engine)]
    cells = []
    for temperature in (0.0, 1.0):
        n_right, n_tokens = right(held[0], options.problems, options.depth, temperature)
        drafted, kept = taken_drafts(held[0])
        layers = per_token(latent, options, n_tokens, drafted, kept)
        cells += [f"{n_right}", f"{kept} of {drafted}" if drafted else "", f"{layers:.1f}"]
    held.clear()
    name = f"`{cascade}`" if cascade else "drafts alone" if drafts else "neither"
    if plain is None:
        return f"| {name} | {' | '.join(cells)} | |"
    held = [opened(replace(small, path=str(folder)), engine)]
    ratios = []
    for _ in range(options.rounds):
        work = 1, options.tokens, options.depth, 0.0
        seconds_plain, _ = written(plain, *work)
        seconds, _ = written(held[0], *work)
        ratios.append(seconds_plain / seconds)
    held.clear()
    return f"| {name} | {' | '.join(cells)} | {shown(ratios, '.2f')} |"


def per_token(
    latent: Latent, options: argparse.Namespace, n_tokens: int, drafted: int, kept: int
) -> float:
    """Return the layers run per generated token, for drafts and rejected tokens too."""
    schedule = latent.schedule
    deep = schedule.n_layers_run(options.depth)
    if latent.cascade and options.depth > parse_cascade(latent.cascade).depth:
        deep += len(schedule.tail)
    more = drafted * schedule.n_layers_run(options.early) + (drafted - kept) * deep
    return deep + more / n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--early", type=int, default=2, help="of the cascade and of the drafts")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed; 0 leaves it out")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--problems", type=int, default=119)
    parser.add_argument("--rules", nargs="*", default=RULES)
    parser.add_argument("--exits", nargs="*", default=())
    options = parser.parse_args()
    for rule in options.exits:
        print(exit_line(rule, options), flush=True)
    if options.exits:
        return
    print(
        "| | right, greedy | kept | layers a token | right, T = 1 | kept | layers a token | speed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = widened(Path(resolve_model("sounder")), Path(name), options.width)
        plain = None
        if options.rounds:
            plain = opened(Model(str(folder)))
            written(plain, 1, 4, options.depth, 0.0)  # warm-up
        for rule, drafts in (("", False), ("", True), *((rule, True) for rule in options.rules)):
            print(line(rule, drafts, folder, plain, options), flush=True)


def widened_sounder(folder: Path, times: int) -> Path:
    from widened import widened

    return widened(Path(resolve_model("sounder")), folder, times)


if __name__ == "__main__":
    main()
