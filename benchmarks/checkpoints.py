"""Measures the cost of checkpoints every 64 tokens, as throughput on one vLLM in one run.

    python benchmarks/checkpoints.py [--n 16] [--tokens 256] [--step 64] [--rounds 3]

The baseline is uninterrupted generation. Rounds alternate whole, stepped, whole, ...; each ratio is
taken within a round. Both generate the same number of traces of the same length (the prompt asks
for a long text; traces that end early are counted as they are). For stepped traces it prints how
many tokens each continuation inherited and how many of them were not in the prefix cache: the cost
of a checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from dataclasses import dataclass

from live import MODELS, Opened, Run, engine, job

import orchestrator
from orchestrator.core.plan import Plan
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.values import Capability, Finish, PluginSpec, Problem, Request, Sampling

PROMPT = (
    "Write a very long and detailed story about a ship that sails to {place}. Do not stop early."
)
PLACES = ("Norway", "Peru", "Java", "Crete")


@orchestrator.strategy("stepped")
@dataclass(frozen=True, slots=True)
class Stepped:
    """Samples `n` traces, each in steps of `step` tokens up to the plan's limit."""

    n: int = 16
    step: int = 64

    @property
    def needs(self) -> frozenset[Capability]:
        """The capabilities that the engine must have."""
        return frozenset({Capability.CONTINUE})

    def explore(self, problem: orchestrator.Problem, rng: random.Random) -> Steps:
        """Continue every trace as soon as its step arrives."""
        running = set((yield from submit([Request(checkpoint=self.step)] * self.n)))
        while running:
            trace = yield from next_trace(running)
            running.discard(trace.ordinal)
            if trace.finish is Finish.RULE:
                running.update(
                    (yield from submit([Request(parent=trace.ordinal, checkpoint=self.step)]))
                )


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("n", 16), ("tokens", 256), ("step", 64), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    asyncio.run(_run(options.n, options.tokens, options.step, options.rounds))


async def _run(n: int, tokens: int, step: int, n_rounds: int) -> None:
    async with engine(n) as opened:
        await measure(opened, n, tokens, step, n_rounds)


async def measure(opened: Opened, n: int, tokens: int, step: int, n_rounds: int) -> None:
    """Measure both and print one line per round."""
    problems = [Problem(place, PROMPT.replace("{place}", place), "text") for place in PLACES]
    each = max(1, n // len(problems))
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=tokens)
    specs = {
        "whole": PluginSpec("consistency", {"n": each}),
        "stepped": PluginSpec("stepped", {"n": each, "step": step}),
    }
    print(
        f"blocks of {opened.engine._pools['main'].llm.vllm_config.cache_config.block_size} tokens",
        flush=True,
    )
    await job(
        Plan(MODELS, specs["whole"], sampling=Sampling(max_new_tokens=4)), problems, opened, n
    )
    ratios: list[float] = []
    efforts: list[float] = []  # the same of CPU time, which others on the machine disturb less
    for number in range(n_rounds):
        rates: dict[str, float] = {}
        work: dict[str, float] = {}
        for name, spec in specs.items():
            run = await job(Plan(MODELS, spec, sampling=sampling, seed=number), problems, opened, n)
            rates[name], work[name] = (
                run.output_tokens / run.seconds,
                run.output_tokens / run.cpu_seconds,
            )
            speed = f"{rates[name]:6.1f} tokens/s {work[name]:6.1f} tokens/CPU s"
            print(
                f"  {name:8s} {run.output_tokens:6,} tokens {run.seconds:6.1f} s {speed}  "
                f"{brought(run)}",
                flush=True,
            )
        ratios.append(rates["stepped"] / rates["whole"])
        efforts.append(work["stepped"] / work["whole"])
    for what, values in (("a second", ratios), ("a CPU second", efforts)):
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(
            f"stepped over whole, tokens {what}: {statistics.median(values):.3f} (median of "
            f"{n_rounds}; {spread})",
            flush=True,
        )


def brought(run: Run) -> str:
    """Return the tokens that continuations inherited, and those that were computed again."""
    usages = [t.usage for pool in run.pools.values() for t in pool if t.parent is not None]
    if not usages:
        return ""
    prompt = statistics.mean(u.prompt_tokens for u in usages)
    fresh = statistics.mean(u.prompt_tokens - u.cached_tokens for u in usages)
    return (
        f"{len(usages)} continuations: {prompt:.0f} tokens brought along each, {fresh:.1f} of them "
        "computed again"
    )


if __name__ == "__main__":
    main()
