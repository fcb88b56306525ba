"""Measures the cost of latent depth: mixed depths in one vLLM engine, the hooks, and KV memory.

    python benchmarks/depth.py --case mixed|hooks|memory [--rounds 3] [--requests 16] [--tokens
      16] [--clock cpu]

The hooks are measured at depth 1. SmolLM2 with ten of its thirty layers as the think block. The
engines of a case are open at the same time, in this process, and take turns, so each ratio is taken
within a round. Prompts are random tokens, so that nothing is cached; every reply has the same
length. Seconds are CPU seconds of the process, which does all work in one worker thread: on a busy
machine they are more reliable than wall-clock time (`--clock wall`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from orchestrator.core.plan import Model
from orchestrator.plan.looped import DEPTH_ARGUMENT, Latent, latent_of
from orchestrator.plan.models import resolve_model

DEPTHS = (1, 2, 4, 8)
THINK = "0-9 (10-19)*r 20-29"
N_PROMPT = 32
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
clock = time.process_time
_numbers = itertools.count()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=["mixed", "hooks", "memory"], required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=16, help="in flight at once (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, default=16, help="of each reply (default: %(default)s)"
    )
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    {"mixed": mixed, "hooks": hooks, "memory": memory}[options.case](
        options.rounds, options.requests, options.tokens
    )


def mixed(n_rounds: int, n: int, n_tokens: int) -> None:
    """Compare one engine per depth with one engine that serves all depths equally.

    Either all requests have the engine's depth, or a quarter of them each of the depths.
    """
    alone = {
        depth: opened(Model("smollm2", layers=f"0-9 (10-19)*{depth} 20-29")) for depth in DEPTHS
    }
    together = opened(Model("smollm2", layers=THINK, max_depth=max(DEPTHS)))
    each = [DEPTHS[i % len(DEPTHS)] for i in range(n)]
    rates: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    found, of_mean = [], []
    for _ in rounds(
        n_rounds,
        [
            *(lambda e=e: seconds(e, [None] * n, 2) for e in alone.values()),
            lambda: seconds(together, each, 2),
        ],
    ):
        for depth, engine in alone.items():
            rates[depth].append(n * n_tokens / seconds(engine, [None] * n, n_tokens))
        found.append(n * n_tokens / seconds(together, each, n_tokens))
        # At its own engine's rate for each request, the tokens would take the sum of tokens / rate:
        # the cost-weighted mean.
        of_mean.append(found[-1] * statistics.mean(1 / rates[depth][-1] for depth in each))
    for depth in DEPTHS:
        print(
            f"depth {depth} alone: {shown(rates[depth], '.1f')} tokens/s, "
            f"{latent(THINK, depth).n_visits} layers run"
        )
    print(
        f"depths {', '.join(map(str, DEPTHS))} mixed, {n // len(DEPTHS)} requests each: "
        f"{shown(found, '.1f')} tokens/s"
    )
    print(f"mixed over the cost-weighted mean of the engines alone: {shown(of_mean, '.3f')}")


def hooks(n_rounds: int, n: int, n_tokens: int) -> None:
    """Compare the stock model with our class at depth 1, with and without depths.

    Also compare a requested depth for all rows with a fixed one.
    """
    engines = {
        "stock": opened(None),
        "schedule": opened(Model("smollm2", layers="0-29")),
        "depths": opened(deep()),
    }
    ratios: dict[str, list[float]] = {name: [] for name in engines}
    warm = [lambda e=e: seconds(e, [None] * n, 2) for e in engines.values()]
    for _ in rounds(n_rounds, warm):
        took = {
            name: seconds(engine, [1 if name == "depths" else None] * n, n_tokens)
            for name, engine in engines.items()
        }
        for name, value in took.items():
            ratios[name].append(took["stock"] / value)
    print(f"schedule 0-29, no depths, over the stock model: {shown(ratios['schedule'], '.3f')}")
    print(
        f"depths up to {max(DEPTHS)}, all requests at 1, over the stock model: "
        f"{shown(ratios['depths'], '.3f')}"
    )


def memory(n_rounds: int, n: int, n_tokens: int) -> None:
    """Print a token's KV cache in one engine for all depths and in one engine per depth.

    The layout is vLLM's. Nothing is timed.
    """
    one = bytes_per_token(opened(deep()))
    each = {
        depth: bytes_per_token(opened(Model("smollm2", layers=f"0-9 (10-19)*{depth} 20-29")))
        for depth in DEPTHS
    }
    print(
        f"KV cache of a token, engine up to depth {max(DEPTHS)}: {one} bytes, whatever its "
        "request's depth"
    )
    for depth, size in each.items():
        print(f"KV cache of a token, engine at depth {depth}: {size} bytes")
    print(
        "as many requests at each of the depths: one engine takes "
        f"{one * len(DEPTHS) / sum(each.values()):.2f} times the cache of four"
    )
    weights = sum(
        file.stat().st_size for file in Path(resolve_model("smollm2")).glob("*.safetensors")
    )
    print(f"and holds the weights once ({weights / 2**20:.0f} MiB) instead of {len(DEPTHS)} times")


def deep() -> Model:
    """Return the model that serves all depths."""
    return Model("smollm2", layers=THINK, max_depth=max(DEPTHS))


def latent(layers: str, max_depth: int = 1) -> Latent:
    """Return SmolLM2's configuration under a schedule."""
    found = configured(Model("smollm2", layers=layers, max_depth=max_depth))
    assert found is not None
    return found


def configured(model: Model) -> Latent | None:
    """Return the project's configuration of a plan's model."""
    config = json.loads(
        (Path(resolve_model("smollm2")) / "config.json").read_text(encoding="utf-8")
    )
    return latent_of(config, model, "main")


def opened(model: Model | None) -> Any:
    """Return vLLM's offline engine: the stock model for None."""
    from vllm import LLM

    found = None if model is None else configured(model)
    return LLM(
        resolve_model("smollm2"),
        hf_overrides={} if found is None else found.overrides(),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        kv_cache_memory_bytes=400 << 20,
        block_size=32,
        disable_log_stats=True,
        max_num_seqs=64,
        enable_prefix_caching=False,
    )


def seconds(engine: Any, depths: Sequence[int | None], n_tokens: int) -> float:
    """Return the seconds these requests take by the chosen clock.

    This includes their prompts of 32 random tokens.
    """
    from vllm import SamplingParams

    rng = random.Random(next(_numbers))
    prompts = [
        {"prompt_token_ids": [rng.randrange(1000, 40000) for _ in range(N_PROMPT)]} for _ in depths
    ]
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=n_tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={DEPTH_ARGUMENT: d} if d else None,
        )
        for d in depths
    ]
    began = clock()
    engine.generate(prompts, params, use_tqdm=False)
    return clock() - began


def rounds(n: int, warm: Sequence[Callable[[], object]]) -> range:
    """Return the rounds, after a warm-up of each engine."""
    for once in warm:
        once()
    return range(n)


def bytes_per_token(engine: Any) -> int:
    """Return the bytes of one token's KV cache over all layers.

    Computed from the number of blocks that vLLM made of the given memory.
    """
    config = engine.llm_engine.vllm_config.cache_config
    return round((400 << 20) / config.num_gpu_blocks / config.block_size)


def shown(values: Sequence[float], form: str) -> str:
    """Return median and range as text."""
    return (
        f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}}, "
        f"{len(values)} rounds)"
    )


if __name__ == "__main__":
    main()
