"""Jobs on fleets, each in a process of its own, and what they lost: for `fleet.py`, `outages.py`.

The process runs this file (`python benchmarks/fleet_job.py TEXT`): Ray ends it where its head is
lost for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

from nodes import Driver

from orchestrator.core.errors import EngineError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec, Problem, Sampling, Trace
from orchestrator.engines.ray import head
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived, Journal
from orchestrator.plan.execution import Execution
from orchestrator.runtime import api

N_ATTEMPTS = 16
CLOCK = "LEADLINE_BENCHMARK_CLOCK"  # the variable with a file by which the driver's clock is off
Traces: TypeAlias = list[tuple[tuple[str, int], tuple[int, ...]]]  # identity, token ids


# The job


def plan(model: str = "") -> Plan:
    """Return the plan of all jobs, for the fake engine or for a model."""
    strategy = PluginSpec("consistency", {"n": N_ATTEMPTS})
    if not model:
        return Plan(strategy=strategy, seed=7)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=64)
    return Plan({"main": Model(model)}, strategy, sampling=sampling, seed=7)


def problems(n: int) -> list[Problem]:
    return [Problem(f"p{i:05d}", f"What is {i} + {i}?") for i in range(n)]


class Arrivals:
    """An observer of a job: when which trace arrived, in seconds since the engine was up."""

    def __init__(self) -> None:
        self.began = self._cpu = 0.0
        self.traces: list[tuple[float, int]] = []  # with its first token

    def started(self, _: object) -> None:
        self.began, self._cpu = time.perf_counter(), time.process_time()
        print("running", flush=True)

    def figures(self) -> dict[str, object]:
        return {"arrivals": self.traces, "cpu_seconds": time.process_time() - self._cpu}

    def arrived(self, _: object, trace: Trace) -> None:
        self.traces.append((time.perf_counter() - self.began, trace.token_ids[0]))
        if len(self.traces) % 50 == 0:
            print(len(self.traces), flush=True)

    def concluded(self, _: object) -> None:
        """Only traces are of interest."""


async def run(directory: Path, n_problems: int, execution: Execution, model: str = "") -> Arrivals:
    """Run a job to its end; return when its traces arrived."""
    arrivals, wanted = Arrivals(), plan(model)
    with open_job(directory, wanted, problems(n_problems)) as job:
        results = api.run_job(job, wanted, execution, arrivals.started, observer=arrivals)
        async for _ in results:
            pass
    return arrivals


def on_ray(address: str, replicas: object, window: int, **options: object) -> Execution:
    ray = {
        "address": address,
        "backend": "slotted",
        "replicas": replicas,
        "cpus_per_replica": 1,
        "heartbeat_seconds": 5,
        **options,
    }
    return Execution(engine=PluginSpec("ray", ray), window=window)


def traces_of_fake(n_problems: int) -> Traces:
    """Return the traces of the same job on the engine `fake`."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), n_problems, Execution(engine=PluginSpec("fake"))))
        return traces_in(Path(folder), n_problems)


def faults(job: Traces, right: Traces) -> Counter[str]:
    """Return how many traces of a job are lost, repeated and mispaired."""
    counts = Counter(traces=len(job), lost=0, repeated=0, mispaired=0)
    first = dict(reversed(job))
    counts["lost"] = sum(key not in first for key, _ in right)
    counts["repeated"] = len(job) - len(first)
    counts["mispaired"] = sum(first.get(key, ids) != ids for key, ids in right)
    return counts


def traces_in(directory: Path, n_problems: int) -> Traces:
    """Return the traces of a job in order of problem and arrival."""
    with Journal(directory / "journal.db") as journal:
        return [
            ((problem.id, event.trace.ordinal), tuple(event.trace.token_ids))
            for problem in problems(n_problems)
            for event in journal.events(problem.id)
            if isinstance(event, Arrived)
        ]


# The driver


@contextlib.contextmanager
def driver(
    directory: Path,
    n_problems: int,
    execution: Execution,
    model: str = "",
    env: Mapping[str, str] | None = None,
    **constants: float,
) -> Iterator[Driver]:
    """Yield the process that runs a job, once it is running."""
    text = {
        "directory": str(directory),
        "n": n_problems,
        "model": model,
        "engine": execution.engine.options,
        "window": execution.window,
        "constants": constants,
    }
    started = Driver([sys.executable, __file__, json.dumps(text)], env)
    try:
        while "running\n" not in started.lines and not started.is_over:
            started.wait_for_line()
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def _misplace_clock(file: Path) -> None:
    """Let this process's time of day be off by what the file says, in seconds."""
    right = time.time
    time.time = lambda: right() + float(file.read_text() or 0)
    time.time_ns = lambda: int(time.time() * 1e9)


def drive(text: str) -> None:
    """Run a job as `driver` wants it; print when traces arrived, or why it ended."""
    given = json.loads(text)
    if CLOCK in os.environ:
        _misplace_clock(Path(os.environ[CLOCK]))
    for name, value in given["constants"].items():
        setattr(head, name, value)
    execution = Execution(engine=PluginSpec("ray", given["engine"]), window=given["window"])
    try:
        job = run(Path(given["directory"]), given["n"], execution, given["model"])
        arrivals = asyncio.run(job)
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    else:
        print(json.dumps(arrivals.figures()), flush=True)


def compared(
    cluster: Callable[[bool], AbstractContextManager[Any]],
    execution: Callable[[str], Execution],
    n_problems: int,
    disturb: Callable[[Any, Driver], int],
    model: str = "",
    env: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Return the figures of a job that is disturbed, against the same job without.

    `cluster` gets True for the job to disturb. `disturb` returns the number of its disturbances;
    `env` has the variables of the disturbed driver. The right traces are those of the engine
    `fake`, or with a model those of the undisturbed job.
    """
    right = [] if model else traces_of_fake(n_problems)
    rates, counts, n_times = [], Counter[str](), 0
    for is_disturbed in (False, True):
        with cluster(is_disturbed) as started, tempfile.TemporaryDirectory() as folder:
            given = execution(started.address)
            variables = env if is_disturbed else None
            with driver(Path(folder), n_problems, given, model, variables) as job:
                n_times = disturb(started, job) if is_disturbed else 0
                result = job.outcome()
            if "error" in result:
                return result
            rates.append(n_problems * N_ATTEMPTS / result["arrivals"][-1][0])
            found = traces_in(Path(folder), n_problems)
        right = right or found
        counts = faults(found, right)
    return {
        **counts,
        "disturbances": n_times,
        "undisturbed": round(rates[0], 1),
        "disturbed": round(rates[1], 1),
        "share": round(rates[1] / rates[0], 3),
    }


if __name__ == "__main__":
    drive(sys.argv[1])
