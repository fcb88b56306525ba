"""Measures the traces per second of the shell when the engine costs nothing.

    python benchmarks/shell.py [--problems 10000] [--traces 10] [--rounds 3] [--as-needed]

Uses the fake engine and includes annotation and the journal. Every problem is open from the start,
so each trace passes a heap of that many sessions; with `--as-needed` as many as fill the window, as
in a job without other settings. Prints traces per second, the CPU time of the main thread, which
says more on a busy machine, the memory of an open problem, and the bytes that the journal takes for
a trace of 8 tokens. `--resume` then opens the finished job once more.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import resource
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
    parser.add_argument("--as-needed", action="store_true", help="open as many as fill the window")
    parser.add_argument("--resume", action="store_true", help="resume the finished job")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="run once under cProfile and print the most expensive functions",
    )
    options = parser.parse_args()
    plan = Plan(strategy=PluginSpec("consistency", {"n": options.traces}))
    execution = Execution(
        engine=PluginSpec("fake"),
        window=options.window,
        open_problems=0 if options.as_needed else options.problems,
    )
    problems = [Problem(f"p{i:06d}", f"What is {i} + {i}?") for i in range(options.problems)]
    print(
        f"{options.problems} problems{'' if options.as_needed else ' open at once'}, "
        f"{options.traces} traces each, {options.window} in flight, {os.cpu_count()} cores"
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
    rounds = [
        one_round(problems, plan, execution, resume=options.resume) for _ in range(options.rounds)
    ]
    rates = [n_traces / seconds for seconds, _ in rounds]
    cpu = [1e6 * seconds / n_traces for _, seconds in rounds]
    print(
        f"traces a second: median {statistics.median(rates):.0f}, {min(rates):.0f} to "
        f"{max(rates):.0f} over {len(rates)} rounds"
    )
    print(f"CPU of the main thread a trace: {min(cpu):.1f} to {max(cpu):.1f} µs")
    print(
        f"largest resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )


def one_round(
    problems: list[Problem], plan: Plan, execution: Execution, *, resume: bool = False
) -> tuple[float, float]:
    """Return the seconds of one job, and of its main thread's CPU."""
    with tempfile.TemporaryDirectory() as directory:
        seconds = asyncio.run(_run(Path(directory), problems, plan, execution))
        if resume:
            began = time.perf_counter()
            asyncio.run(_run(Path(directory), problems, plan, execution, n_new=0))
            print(f"resumed in {time.perf_counter() - began:.2f} s, with the export at its end")
    return seconds


def journal_bytes(problems: list[Problem], plan: Plan, execution: Execution) -> int:
    """Return the size of the journal of one job."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_run(Path(directory), problems, plan, execution))
        return (Path(directory) / "journal.db").stat().st_size


async def _run(
    directory: Path,
    problems: list[Problem],
    plan: Plan,
    execution: Execution,
    n_new: int | None = None,
) -> tuple[float, float]:
    with open_job(directory, plan, problems) as job:
        began, cpu_began = time.perf_counter(), time.thread_time()
        n_results = 0
        async for _ in api.run_job(job, plan, execution):
            n_results += 1
        seconds = time.perf_counter() - began, time.thread_time() - cpu_began
        assert n_results == (len(problems) if n_new is None else n_new)
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
