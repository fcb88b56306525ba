"""Measures the traces per second of the shell when the engine costs nothing.

    python benchmarks/shell.py [--problems 10000] [--traces 10] [--rounds 3]

Uses the fake engine and includes annotation and the journal. Every problem is open from the start,
so each trace passes a heap of that many sessions. Prints traces per second, a profile of the time,
the memory of an open problem, and the bytes that the journal takes for a trace of 8 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import statistics
import tempfile
import time
from pathlib import Path

from orchestrator.core.plan import Plan
from orchestrator.core.session import Session
from orchestrator.core.values import PluginSpec, Problem
from orchestrator.jobs.job import open_job
from orchestrator.plan.execution import Execution
from orchestrator.runtime import api


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--traces", type=int, default=10)
    parser.add_argument(
        "--window", type=int, default=256, help="requests in flight at once (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="run once under cProfile and print the most expensive functions",
    )
    options = parser.parse_args()
    plan = Plan(strategy=PluginSpec("consistency", {"n": options.traces}))
    execution = Execution(
        engine=PluginSpec("fake"), window=options.window, open_problems=options.problems
    )
    problems = [Problem(f"p{i:06d}", f"What is {i} + {i}?") for i in range(options.problems)]
    print(
        f"{options.problems} problems open at once, {options.traces} traces each, {options.window} "
        f"in flight, {os.cpu_count()} cores"
    )
    print(
        f"memory: {bytes_per_open_problem(problems, plan, options.traces):.0f} bytes per open "
        "problem that holds no finished trace"
    )
    some = problems[:1000]
    n_bytes = journal_bytes(some, plan, execution) / (len(some) * options.traces)
    print(f"journal: {n_bytes:.0f} bytes a trace, of {len(some)} problems")
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(one_round, problems, plan, execution)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        return
    n_traces = options.problems * options.traces
    rates = [n_traces / one_round(problems, plan, execution) for _ in range(options.rounds)]
    print(
        f"traces a second: median {statistics.median(rates):.0f}, {min(rates):.0f} to "
        f"{max(rates):.0f} over {len(rates)} rounds"
    )


def one_round(problems: list[Problem], plan: Plan, execution: Execution) -> float:
    """Return the seconds of one job, from its first request to its last result."""

    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_run(Path(directory), problems, plan, execution))


def journal_bytes(problems: list[Problem], plan: Plan, execution: Execution) -> int:
    """Return the size of the journal of one job."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_run(Path(directory), problems, plan, execution))
        return (Path(directory) / "journal.db").stat().st_size


async def _run(directory: Path, problems: list[Problem], plan: Plan, execution: Execution) -> float:
    with open_job(directory, plan, problems) as job:
        began = time.perf_counter()
        n_results = sum([1 async for _ in api.run_job(job, plan, execution)])
        seconds = time.perf_counter() - began
        assert n_results == len(problems)
        assert job.journal.n_traces() == len(problems) * plan.strategy.options["n"]
        return seconds


def bytes_per_open_problem(problems: list[Problem], plan: Plan, n_running: int) -> float:
    """Return the resident memory of a started session with `n_running` requests in flight."""
    explorer = api.load_explorer(plan)
    gc.collect()
    before = _resident_bytes()
    sessions = [Session(p, explorer.strategy, plan) for p in problems]
    for session in sessions:
        session.start()
    return (_resident_bytes() - before) / len(sessions)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
