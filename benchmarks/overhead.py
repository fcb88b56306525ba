"""Measures the overhead of orchestration: a whole job against raw vLLM on the same requests.

    python benchmarks/overhead.py [--case smollm2|tiny|both] [--rounds 5]

Stages of one run, each on the same requests (prompts, seeds, lengths, requests in flight):

    raw      AsyncLLM.add_request with ready token ids, and nothing else
    engine   our vLLM engine in the same process: rendering, parameters, traces
    fleet    the same engine in a Ray actor, driven from this process
    job      everything: sessions, Ray, answers extracted and classed, journal on disk, votes

Rounds alternate raw, engine, fleet, job, raw, ...; each ratio is taken within a round. Two engines
stay loaded (this process's and the actor's), but only one works at a time. Case `smollm2`: the
embedded model, 64 in flight. Case `tiny`: a random-weights Llama of about a million parameters, 256
in flight: the hard case, where a token costs almost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.core.plan import Model, Plan
from orchestrator.core.session import Session, Start
from orchestrator.core.values import PluginSpec, Problem, Request, Sampling
from orchestrator.jobs.job import open_job
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime import api

CASES = {
    "smollm2": {"window": 64, "problems": 16, "n": 8, "tokens": 32, "aim": 0.97},
    "tiny": {"window": 256, "problems": 64, "n": 16, "tokens": 64, "aim": 0.90},
}
STAGES = ("raw", "engine", "fleet", "job")


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[*CASES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--stages",
        default=",".join(STAGES),
        help="those to measure, raw and job among them (default: %(default)s)",
    )
    options = parser.parse_args()
    stages = [stage for stage in STAGES if stage in options.stages.split(",")]
    for case in CASES if options.case == "both" else [options.case]:
        with tempfile.TemporaryDirectory() as directory:
            path = "smollm2" if case == "smollm2" else tiny_llama(Path(directory))
            asyncio.run(measure(case, path, stages, options.rounds, Path(directory)))


async def measure(
    case: str, path: str, chosen: Sequence[str], n_rounds: int, directory: Path
) -> None:
    """Measure one case and print it."""
    size = CASES[case]
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=int(size["tokens"]))
    plan = Plan(
        models={"main": Model(path)},
        strategy=PluginSpec("consistency", {"n": size["n"]}),
        sampling=sampling,
    )
    engine_options: dict[str, object] = {"kv_cache_gib": 2.0, "max_num_seqs": size["window"]}
    problems = [
        Problem(
            f"p{i}", f"A crate holds {i + 2} jars of {i % 7 + 3} plums. How many plums?", "number"
        )
        for i in range(size["problems"])
    ]
    explorer = api.load_explorer(plan)
    requests = [
        e.request
        for p in problems
        for e in Session(p, explorer.strategy, plan).start()
        if isinstance(e, Start)
    ]
    rates: dict[str, list[float]] = {stage: [] for stage in chosen}
    async with contextlib.AsyncExitStack() as stack:
        local = await stack.enter_async_context(
            registry.load("engines", PluginSpec("vllm", engine_options)).open(plan.models)
        )
        remote_backend = Shared(PluginSpec("ray", {"options": engine_options}))
        remote = await stack.enter_async_context(remote_backend.open(plan.models))
        stages: dict[str, Callable[[], Awaitable[float]]] = {
            "raw": lambda: in_window(requests, int(size["window"]), raw(local)),
            "engine": lambda: in_window(requests, int(size["window"]), completing(local)),
            "fleet": lambda: in_window(requests, int(size["window"]), completing(remote)),
            "job": lambda: whole_job(
                plan, problems, remote_backend, int(size["window"]), directory
            ),
        }
        for stage in chosen:
            await stages[stage]()  # warm-up, which also fills the prefix cache equally
            print(f"{case}: stage {stage} is warm", flush=True)
        for _ in range(n_rounds):
            for stage in chosen:
                rates[stage].append(await stages[stage]())
    show(case, size, rates, len(requests))


def show(case: str, size: dict[str, Any], rates: dict[str, list[float]], n_requests: int) -> None:
    """Print one case's table."""
    print(
        f"\n{case}: {n_requests} requests of {size['tokens']} tokens at most, {size['window']} in "
        f"flight, {os.cpu_count()} cores"
    )
    print(
        f"  {'stage':8s} {'tokens/s':>9s} {'of raw':>8s} {'range':>15s} "
        f"{'of the stage before':>20s}"
    )
    before = "raw"
    for stage in rates:
        ratios = [a / b for a, b in zip(rates[stage], rates["raw"], strict=True)]
        steps = [a / b for a, b in zip(rates[stage], rates[before], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        rate, ratio, step = (statistics.median(values) for values in (rates[stage], ratios, steps))
        print(f"  {stage:8s} {rate:9.1f} {ratio:8.3f} {spread:>15s} {step:20.3f}")
        before = stage
    reached = statistics.median(a / b for a, b in zip(rates["job"], rates["raw"], strict=True))
    print(
        f"  orchestrated over raw: {reached:.3f} (median of {len(rates['job'])} rounds; aim "
        f"{size['aim']:.2f})",
        flush=True,
    )


async def in_window(
    requests: Sequence[Request], window: int, complete: Callable[[Request], Awaitable[int]]
) -> float:
    """Return tokens per second over all requests, `window` of them in flight."""
    waiting = iter(requests)

    async def lane() -> int:
        return sum([await complete(request) for request in waiting])

    began = time.perf_counter()
    n_tokens = sum(await asyncio.gather(*(lane() for _ in range(window))))
    return n_tokens / (time.perf_counter() - began)


def raw(engine: Any) -> Callable[[Request], Awaitable[int]]:
    """Return a function that completes a request on the AsyncLLM inside an engine.

    Token ids and parameters are prepared beforehand.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    pool = engine._pools["main"]
    prompts: dict[Any, list[int]] = {}
    n_done = 0

    async def complete(request: Request) -> int:
        nonlocal n_done
        n_done += 1
        if request.prompt not in prompts:
            prompts[request.prompt] = list(pool.input_for(request).prompt_ids)
        sampling = request.sampling
        assert sampling is not None
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=request.max_new_tokens,
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for output in pool.llm.generate(
            {"prompt_token_ids": prompts[request.prompt]}, params, f"raw{n_done}"
        ):
            last = output
        return len(last.outputs[0].token_ids)

    return complete


def completing(engine: Any) -> Callable[[Request], Awaitable[int]]:
    """Return a function that completes a request on an Engine."""

    async def complete(request: Request) -> int:
        trace = await engine.generate(request)
        assert not trace.error, trace.error
        return int(trace.usage.output_tokens)

    return complete


class Shared:
    """A backend with an engine that stays open between jobs.

    So a job's time does not include an engine's start.
    """

    def __init__(self, spec: PluginSpec) -> None:
        self._backend = registry.load("engines", spec)
        self._engine: Any = None

    def capabilities(self) -> Any:
        """Return the inner backend's capabilities."""
        return self._backend.capabilities()

    @contextlib.asynccontextmanager
    async def open(self, models: Any) -> Any:
        """Yield the engine; only the first call starts and stops it."""
        if self._engine is not None:
            yield self._engine
            return
        async with self._backend.open(models) as self._engine:
            yield self._engine


async def whole_job(
    plan: Plan, problems: list[Problem], backend: Shared, window: int, directory: Path
) -> float:
    """Return the tokens per second of a job, including journal and votes."""
    execution = Execution(engine=PluginSpec("ray"), window=window)
    with (
        tempfile.TemporaryDirectory(dir=directory) as out,
        open_job(Path(out), plan, problems) as job,
    ):
        began = time.perf_counter()
        n_tokens = 0
        async for result in api.run_job(job, plan, execution, factory=backend):
            n_tokens += sum(u.output_tokens for u in result.usage.values())
        return n_tokens / (time.perf_counter() - began)


def tiny_llama(directory: Path) -> str:
    """Return the folder of a Llama with about a million random parameters and a small tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    set_seed(0)
    words = ByteLevelBPETokenizer()
    words.train_from_iterator(
        [Path(__file__).read_text()],
        vocab_size=1024,
        min_frequency=2,
        special_tokens=["<s>", "</s>"],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words._tokenizer, bos_token="<s>", eos_token="</s>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    print(f"tiny: {sum(p.numel() for p in model.parameters()):,} parameters")
    model.save_pretrained(directory / "tiny")
    tokenizer.save_pretrained(directory / "tiny")
    return str(directory / "tiny")


if __name__ == "__main__":
    main()
