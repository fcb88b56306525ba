"""Measures drafts with layers left out: SmolLM2 that drafts for itself, and vLLM's own class.

    python benchmarks/left_out.py [--draft-layers "0-9" "0-9 20-29"] [--problems 6]
      [--tokens 24] [--draft-tokens 2] [--rounds 3] [--clock cpu]

It answers the word problems of the examples, one at a time, greedy and at temperature 1: by the
rule that decides how many tokens to draft, and with `--draft-tokens` in every step. Each ratio is
taken within a round, by the clock of `depth`. The tokens must be the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import depth

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.options import Vllm

# an early exit, a block in the middle left out, and of 19 sets the two whose drafts were kept most
# often on six other problems (13 to 18 of the file)
SETS = ("0-9", "0-9 20-29", "0-2 6-8 11 18-24 26-29", "0-7 18-29")
PROBLEMS = Path(__file__).parents[1] / "examples" / "arithmetic.jsonl"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draft-layers", nargs="+", default=SETS)
    parser.add_argument("--problems", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=24, help="of a reply (default: %(default)s)")
    parser.add_argument("--draft-tokens", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(depth.CLOCKS), default="cpu")
    options = parser.parse_args()
    depth.clock = depth.CLOCKS[options.clock]
    left_out(options)


def left_out(options: argparse.Namespace) -> None:
    """Compare SmolLM2 that drafts with layers left out with vLLM's own class, one in flight."""
    plain = depth.opened(None)
    tokenizer = plain.get_tokenizer()
    rows = PROBLEMS.read_text(encoding="utf-8").splitlines()
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": json.loads(row)["prompt"]}],
            add_generation_prompt=True,
            return_dict=False,
        )
        for row in rows[: options.problems]
    ]
    settings = Vllm(draft_tokens=options.draft_tokens)
    engines = {
        layers: depth.opened(Model("smollm2"), replace(settings, draft_layers=layers))
        for layers in options.draft_layers
    }
    for engine in (plain, *engines.values()):
        alone(engine, prompts[:1], 4, 0.0)  # warm-up
    for engine in engines.values():
        depth.taken_drafts(engine)
    for temperature in (0.0, 1.0):
        rates: list[float] = []
        found: dict[tuple[str, bool], list[tuple[float, int, int]]] = {}
        for _ in range(options.rounds):
            seconds, tokens = alone(plain, prompts, options.tokens, temperature)
            rates.append(len(prompts) * options.tokens / seconds)
            for (layers, engine), always in itertools.product(engines.items(), (False, True)):
                with draft_always(engine, options.draft_tokens) if always else nullcontext():
                    own_seconds, same = alone(engine, prompts, options.tokens, temperature)
                assert same == tokens, "a draft has changed a token"
                of_round = seconds / own_seconds, *depth.taken_drafts(engine)
                found.setdefault((layers, always), []).append(of_round)
        print(f"temperature {temperature:g}: {depth.shown(rates, '.1f')} tokens/s without drafts")
        for (layers, always), each in found.items():
            ratios, n_drafted, n_kept = zip(*each, strict=True)
            print(
                f"  {layers} {'in every step' if always else 'by the rule'}: times "
                f"{depth.shown(ratios, '.2f')}; {sum(n_kept)} of {sum(n_drafted)} drafts kept",
                flush=True,
            )


def alone(
    engine: Any, prompts: Sequence[list[int]], n_tokens: int, temperature: float
) -> tuple[float, list[list[int]]]:
    """Return the seconds in which an engine continues prompts one by one, and the tokens."""
    from vllm import SamplingParams

    shared = {"max_tokens": n_tokens, "ignore_eos": True, "detokenize": False}
    tokens = []
    began = depth.clock()
    for i, prompt in enumerate(prompts):
        params = SamplingParams(temperature=temperature, seed=i, **shared)
        [output] = engine.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
        tokens.append(list(output.outputs[0].token_ids))
    return depth.clock() - began, tokens


@contextmanager
def draft_always(engine: Any, n_tokens: int) -> Iterator[None]:
    """Let an engine draft so many tokens in every step, whether or not they pay."""
    proposer = depth.runner_of(engine).drafter
    stock = proposer._lengths, proposer._payoff
    proposer._lengths = SimpleNamespace(
        of_step=lambda depths: [n_tokens] * len(depths), count=lambda *_: None
    )
    proposer._payoff = SimpleNamespace(pays=lambda _: True, count=lambda *_, **__: None)
    try:
        yield
    finally:
        proposer._lengths, proposer._payoff = stock


if __name__ == "__main__":
    main()
