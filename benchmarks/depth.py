"""Measures latent depth: mixed depths in one vLLM engine, the hooks, KV memory, and drafts.

    python benchmarks/depth.py --case mixed [--rounds 3] [--requests 16] [--tokens 16] [--waves 8]
      [--layers "0-9 (10-19)*r 20-29"] [--clock cpu]
    python benchmarks/depth.py --case hooks|memory [--rounds 3] [--requests 16] [--tokens 16]
    python benchmarks/depth.py --case drafts [--rounds 3] [--tokens 96] [--in-flight 1,4,64]
      [--width 8] [--depth 16] [--draft-depth 2] [--draft-tokens 4]

Depths are mixed with as many seats as requests in flight, and several requests for each seat. One
of two engines ends steps between iterations (depth batching), the other runs each step to the end.
The hooks are measured at depth 1. SmolLM2 with ten of its thirty layers as the think block. The
engines of a case are open at the same time, in this process, and take turns, so each ratio is taken
within a round. Prompts are random tokens, so that nothing is cached; every reply has the same
length. Seconds are CPU seconds of the process, which does all work in one worker thread: on a busy
machine they are more reliable than wall-clock time (`--clock wall`).

Drafts are measured with the shipped looped model, `sounder`, of which head and tail are 2 of 18
layers at depth 16, on its own puzzles: so drafts are kept as often as this model keeps them. It is
widened with zeros (`widened`): it computes the same function, at the cost of a larger model, which
a pass of the shipped one, mostly overhead, would not show. Both engines must write the same tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from widened import widened

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.depth import SCHEDULER
from orchestrator.engines.vllm.options import Vllm
from orchestrator.engines.vllm.start.drafts import drafting, speculative_config
from orchestrator.plan.looped import DEPTH_ARGUMENT, Latent
from orchestrator.plan.models import resolve_model

DEPTHS = (1, 2, 4, 8)
SLOTS = (1, 2, 4)
THINK = "0-9 (10-19)*r 20-29"
PUZZLES = Path(__file__).parents[1] / "examples" / "sounder.jsonl"
N_PROMPT = 32
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
clock = time.process_time
_numbers = itertools.count()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=["mixed", "hooks", "memory", "drafts"], required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=16, help="in flight at once (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, default=16, help="of each reply (default: %(default)s)"
    )
    parser.add_argument(
        "--waves", type=int, default=8, help="mixed: requests for each seat (default: %(default)s)"
    )
    parser.add_argument("--layers", default=THINK, help="mixed: schedule (default: %(default)s)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--in-flight", default="1,4,64", help="drafts: requests at once")
    parser.add_argument("--width", type=int, default=8, help="drafts: times the shipped width")
    parser.add_argument("--depth", type=int, default=16, help="drafts: of the requests")
    parser.add_argument("--draft-depth", type=int, default=2)
    parser.add_argument("--draft-tokens", type=int, default=4)
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    if options.case == "drafts":
        drafts(options)
    elif options.case == "mixed":
        mixed(options)
    else:
        {"hooks": hooks, "memory": memory}[options.case](
            options.rounds, options.requests, options.tokens
        )


def mixed(options: argparse.Namespace) -> None:
    """Compare requests of all depths, equally many of each, with full batches of one depth each.

    The full batches have a request for each seat, and run in the engine with vLLM's scheduler.
    """
    seats = {"max_num_seqs": options.requests}
    deep = Model("smollm2", layers=options.layers, max_depth=max(DEPTHS))
    engines = {
        "each step to the end": opened(deep, **seats),
        "steps that end between iterations": opened(deep, **seats, scheduler_cls=SCHEDULER),
    }
    each = [DEPTHS[i % len(DEPTHS)] for i in range(options.requests * options.waves)]
    alone: dict[int, list[float]] = {depth: [] for depth in DEPTHS}  # tokens/s
    found: dict[str, list[float]] = {name: [] for name in engines}
    of_mean: dict[str, list[float]] = {name: [] for name in engines}
    full = next(iter(engines.values()))
    for _ in rounds(
        options.rounds, [lambda e=e: seconds(e, [1, 8] * 4, 3) for e in engines.values()]
    ):
        for depth, rates in alone.items():
            took = seconds(full, [depth] * options.requests, options.tokens)
            rates.append(options.requests * options.tokens / took)
        for name, engine in engines.items():
            found[name].append(len(each) * options.tokens / seconds(engine, each, options.tokens))
            # At the rate of its depth's full batch for each request, the tokens would take the sum
            # of tokens / rate: the cost-weighted mean.
            of_mean[name].append(found[name][-1] * statistics.mean(1 / alone[d][-1] for d in each))
            print(f"  {name}: {of_mean[name][-1]:.3f}", flush=True)
    for depth, rates in alone.items():
        print(
            f"depth {depth} alone: {shown(rates, '.1f')} tokens/s, "
            f"{latent(options.layers, depth).n_visits} layers run"
        )
    for name in engines:
        print(
            f"depths {', '.join(map(str, DEPTHS))} mixed, {name}: {shown(found[name], '.1f')} "
            f"tokens/s, {shown(of_mean[name], '.3f')} of the cost-weighted mean of full batches"
        )


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
    """Print a token's KV cache in one engine for all depths, with fewer slots, and per depth.

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
    for n_slots in SLOTS:
        size = bytes_per_token(opened(replace(deep(), kv_iterations=n_slots)))
        print(f"KV cache of a token, that engine with kv_iterations = {n_slots}: {size} bytes")
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


def drafts(options: argparse.Namespace) -> None:
    """Compare an engine that drafts for itself with one that does not, by requests in flight."""
    with tempfile.TemporaryDirectory() as name:
        folder = widened(Path(resolve_model("sounder")), Path(name), options.width)
        model = Model(str(folder))
        settings = Vllm(draft_depth=options.draft_depth, draft_tokens=options.draft_tokens)
        plain, drafted = opened(model), opened(model, settings)
    for engine in (plain, drafted):
        written(engine, 2, 4, options.depth, 0.0)  # warm-up
    taken_drafts(drafted)
    for n in map(int, options.in_flight.split(",")):
        for temperature in (0.0, 1.0):
            ratios, rates = [], []
            for _ in range(options.rounds):
                work = n, options.tokens, options.depth, temperature
                seconds_plain, tokens = written(plain, *work)
                seconds_drafts, same = written(drafted, *work)
                assert same == tokens, "a draft has changed a token"
                ratios.append(seconds_plain / seconds_drafts)
                rates.append(n * options.tokens / seconds_plain)
            n_drafted, n_accepted = taken_drafts(drafted)
            print(
                f"{n} in flight, temperature {temperature:g}: {shown(rates, '.1f')} tokens/s "
                f"without drafts, times {shown(ratios, '.2f')} with them; "
                f"{n_accepted} of {n_drafted} drafts kept",
                flush=True,
            )


def runner_of(engine: Any) -> Any:
    """Return vLLM's model runner of an engine in this process."""
    return engine.llm_engine.model_executor.driver_worker.worker.model_runner


def taken_drafts(engine: Any) -> tuple[int, int]:
    """Return, once, the tokens that an engine has drafted, and those that it kept."""
    ledger = runner_of(engine).get_model().loop.drafts
    counts = [ledger.take(name) for name in list(ledger._counts)]
    return sum(one.drafted for one in counts if one), sum(one.accepted for one in counts if one)


def written(
    engine: Any, n: int, n_tokens: int, depth: int, temperature: float
) -> tuple[float, list[list[int]]]:
    """Return the seconds in which an engine continues `n` puzzles, and the tokens it writes."""
    from vllm import SamplingParams

    tokenizer = engine.get_tokenizer()
    rows = [json.loads(line) for line in PUZZLES.read_text(encoding="utf-8").splitlines()]
    prompts = [{"prompt_token_ids": tokenizer.encode(row["prompt"])} for row in rows[:n]]
    shared = {"max_tokens": n_tokens, "ignore_eos": True, "detokenize": False}
    params = [
        SamplingParams(
            temperature=temperature, seed=i, extra_args={DEPTH_ARGUMENT: depth}, **shared
        )
        for i in range(n)
    ]
    began = clock()
    outputs = engine.generate(prompts, params, use_tqdm=False)
    return clock() - began, [list(output.outputs[0].token_ids) for output in outputs]


def deep() -> Model:
    """Return the model that serves all depths."""
    return Model("smollm2", layers=THINK, max_depth=max(DEPTHS))


def latent(layers: str, max_depth: int = 1) -> Latent:
    """Return SmolLM2's configuration under a schedule."""
    found = configured(Model("smollm2", layers=layers, max_depth=max_depth))
    assert found is not None
    return found


def configured(model: Model, options: Vllm | None = None) -> Latent | None:
    """Return the project's configuration of a plan's model, by default without drafts."""
    config = json.loads(
        (Path(resolve_model(model.path)) / "config.json").read_text(encoding="utf-8")
    )
    return drafting(options or Vllm(), "main", config, model, on_cpu=True)


def opened(model: Model | None, options: Vllm | None = None, **arguments: Any) -> Any:
    """Return vLLM's offline engine: the stock model for None."""
    from vllm import LLM

    found = None if model is None else configured(model, options)
    draft = None if found is None else found.draft
    return LLM(
        resolve_model("smollm2" if model is None else model.path),
        hf_overrides={} if found is None else found.overrides(),
        dtype="float32",
        enforce_eager=True,
        enable_chunked_prefill=False,  # vLLM's CPU build fails with it when requests carry seeds
        max_model_len=256,
        kv_cache_memory_bytes=400 << 20,
        block_size=32,
        disable_log_stats=True,
        enable_prefix_caching=False,
        speculative_config=None if draft is None else speculative_config(draft),
        **{"max_num_seqs": 64, **arguments},
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
