"""Measures what sinks cost a job: CPU per trace with and without, in turns.

    python benchmarks/sinks.py [--sink prometheus?path=/tmp/a.prom] [--problems 2000] [--rounds 5]

The engine costs nothing, so the shares are upper bounds. "hand-over" is a sink that does nothing.
Opening and closing a sink, such as importing its library, is part of its figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orchestrator
from orchestrator import Execution, Plan, Problem, RunStarted
from orchestrator.jobs.job import open_job
from orchestrator.runtime.api import run_job
from orchestrator.runtime.sinks.events import Receive
from orchestrator.runtime.sinks.reporting import reporting

_REAL_TRACES = 100.0  # a second: a fast engine on one GPU, with a thousand tokens each


@orchestrator.sink("hand-over")
@dataclass(frozen=True, slots=True)
class HandOver:
    """Receive all events and do nothing."""

    @contextlib.contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        """Yield a function that does nothing."""
        yield lambda events: None


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sink", action="append", default=[], help="one more; may be repeated")
    parser.add_argument("--problems", type=int, default=2_000)
    parser.add_argument("--traces", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cases = ["", "hand-over", *options.sink]
    costs: dict[str, list[float]] = {case: [] for case in cases}
    n_traces = options.problems * options.traces
    for number in range(options.rounds + 1):
        for case in cases:
            seconds = cpu_seconds(case, options.problems, options.traces)
            if number:  # the first round warms up
                costs[case].append(seconds / n_traces * 1e6)
    base = statistics.median(costs[""])
    print(f"{n_traces:,} traces, {options.rounds} rounds in turns; CPU of the process per trace")
    print(f"{'without':28} {base:8.1f} µs")
    for case in cases[1:]:
        more = statistics.median(a - b for a, b in zip(costs[case], costs[""], strict=True))
        share = more * 1e-6 * _REAL_TRACES
        print(
            f"{case[:28]:28} {more:+8.1f} µs, {more / base:+.1%} of a job whose engine is free; "
            f"{share:.3%} of a core at {_REAL_TRACES:g} traces a second"
        )


def cpu_seconds(sink: str, n_problems: int, n_traces: int) -> float:
    """Return the CPU seconds of a job in this process."""
    plan = Plan(strategy={"name": "consistency", "n": n_traces}, domain="number")
    execution = Execution("fake", window=256, sinks=[sink] if sink else [])
    problems = [Problem(f"p{i:06d}", f"What is {i} + {i}?", "number") for i in range(n_problems)]

    async def run() -> None:
        with (
            tempfile.TemporaryDirectory() as directory,
            open_job(Path(directory), plan, problems) as job,
            reporting(job, plan, execution, "benchmark", lambda t: print(t, file=sys.stderr)) as to,
        ):
            async for _ in run_job(job, plan, execution, reporting=to):
                pass

    began = time.process_time()
    asyncio.run(run())
    return time.process_time() - began


if __name__ == "__main__":
    main()
