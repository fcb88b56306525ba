"""A job that grows on a real vLLM: one request at a time, its traces are those of a fresh job."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.values import (
    Capability,
    PluginSpec,
    Problem,
    Request,
    Result,
    Sampling,
    Trace,
    Usage,
)
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.jobs.job import open_job
from orchestrator.plan.execution import Execution
from orchestrator.runtime import api

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]

PROBLEMS = [Problem(f"p{i}", f"What is {i} + 7? Answer briefly.", "number") for i in range(2)]


@dataclass
class Counted:
    """An engine that is open already, as a factory; counts the requests it is sent."""

    engine: VllmEngine
    sent: Counter[tuple[str, int]] = field(default_factory=Counter)

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    def open(self, models: Any) -> AbstractAsyncContextManager[Any]:
        return nullcontext(self)

    async def generate(self, request: Request) -> Trace:
        self.sent[request.identity] += 1
        return await self.engine.generate(request)

    def abort(self, request: Request) -> None:
        self.engine.abort(request)


async def run(
    engine: VllmEngine, directory: Path, n: int
) -> tuple[list[Result], list[list[Trace]], Counter[tuple[str, int]]]:
    """Return results and traces without their cost, and the requests that were sent.

    The cost is left out because what the prefix cache holds depends on earlier requests.
    """
    sampling = Sampling(temperature=1.0, max_new_tokens=8)
    plan = Plan(strategy=PluginSpec("consistency", {"n": n}), sampling=sampling)
    counted = Counted(engine)
    with open_job(directory, plan, PROBLEMS) as job:
        async for _ in api.run_job(job, plan, Execution(window=1), factory=counted):
            pass
        results = [replace(r, usage={}, seconds=0.0) for r in job.results()]
        traces = [list(job.journal.traces(p.id)) for p in PROBLEMS]
    priceless = [[replace(t, usage=Usage()) for t in pool] for pool in traces]
    return results, priceless, counted.sent


async def test_n_grows_from_8_to_32_at_no_more_than_the_difference(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """Alone in its batch, a request's seed decides its tokens; so the traces are the same."""
    sent: Counter[tuple[str, int]] = Counter()
    for n in (8, 16, 32):
        results, traces, new = await run(vllm_engine, tmp_path / "grown", n)
        sent += new
    fresh = await run(vllm_engine, tmp_path / "fresh", 32)
    assert (results, traces) == fresh[:2]
    assert sent == fresh[2]
