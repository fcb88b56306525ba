"""Shared by the live benchmarks: an open vLLM engine, jobs on it, counts of tokens after aborts."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Finish, PluginSpec, Problem, Result, Trace
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, JobBudget
from orchestrator.runtime import api


@dataclass(frozen=True, slots=True)
class Run:
    """One job: its results, all traces by problem, and its seconds without the engine's start.

    `cpu_seconds` are those of this process and the engine's: on a shared machine they are more
    reliable than wall-clock time.
    """

    results: Sequence[Result]
    pools: Mapping[str, Sequence[Trace]]
    seconds: float
    cpu_seconds: float

    @property
    def output_tokens(self) -> int:
        """All tokens generated, for any purpose."""
        return sum(u.output_tokens for r in self.results for u in r.usage.values())

    def of(self, *finishes: Finish) -> list[Trace]:
        """Return the traces with this finish."""
        return [t for pool in self.pools.values() for t in pool if t.finish in finishes]


class Opened:
    """A backend with an engine that is already open."""

    def __init__(self, engine: Any, backend: Any) -> None:
        self.engine = engine
        self._backend = backend
        # tokens that the engine generated for a request after its abort
        self.late: Counter[str] = Counter()
        self.n_made = 0  # all tokens that it generated

    def capabilities(self) -> Any:
        """Return the inner backend's capabilities."""
        return self._backend.capabilities()

    @contextlib.asynccontextmanager
    async def open(self, models: Any) -> AsyncIterator[Any]:
        """Yield the engine; it stays open."""
        yield self.engine

    def count_late_tokens(self) -> None:
        """From now on, count the tokens of requests that vLLM's front end no longer knows.

        It forgets requests when they are aborted.
        """
        for pool in self.engine._pools.values():
            processor = pool.llm.output_processor
            inner = processor.process_outputs

            def counting(
                outputs: Any,
                *rest: Any,
                _inner: Any = inner,
                _processor: Any = processor,
                **named: Any,
            ) -> Any:
                for output in outputs:
                    self.n_made += len(output.new_token_ids)
                    if output.request_id not in _processor.request_states:
                        self.late[output.request_id] += len(output.new_token_ids)
                return _inner(outputs, *rest, **named)

            processor.process_outputs = counting


MODELS = {"main": Model("smollm2", max_context_tokens=1024)}


@contextlib.asynccontextmanager
async def engine(n_at_once: int, models: Mapping[str, Model] = MODELS) -> AsyncIterator[Opened]:
    """Yield a backend with an open vLLM engine for these models, by default the embedded one."""
    backend = registry.load(
        "engines", PluginSpec("vllm", {"kv_cache_gib": 2.0, "max_num_seqs": n_at_once})
    )
    began = time.perf_counter()
    async with backend.open(models) as opened:
        print(f"the engine is up after {time.perf_counter() - began:.0f} s", flush=True)
        yield Opened(opened, backend)


async def job(
    plan: Plan,
    problems: Sequence[Problem],
    backend: Opened,
    window: int,
    budget: JobBudget = JobBudget(),  # noqa: B008  # a frozen value
) -> Run:
    """Run a whole job, including journal and votes, and return it."""
    execution = Execution(engine=PluginSpec("vllm"), window=window, budget=budget)
    with tempfile.TemporaryDirectory() as out, open_job(Path(out), plan, list(problems)) as opened:
        began, cpu_before = time.perf_counter(), _cpu_seconds()
        results = [result async for result in api.run_job(opened, plan, execution, factory=backend)]  # type: ignore[arg-type]
        seconds, cpu = time.perf_counter() - began, _cpu_seconds() - cpu_before
        pools = {
            p.id: [e.trace for e in opened.journal.events(p.id) if isinstance(e, Arrived)]
            for p in problems
        }
    return Run(results, pools, seconds, cpu)


def _cpu_seconds() -> float:
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)
