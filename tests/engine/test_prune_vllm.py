"""Strategies that stop traces on the way, on a real vLLM: what is pruned costs no more, and judges
are asked through the same engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import (
    Capability,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Result,
    Sampling,
    Trace,
)
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.jobs.job import open_job
from orchestrator.plan.execution import Execution
from orchestrator.runtime import api

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

PROBLEM = Problem("ship", "Tell a long story about a ship and the number 7.", "number")


class Shared:
    """A backend of an engine that is open already."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @contextlib.asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Any]:
        yield self._engine


async def solved(
    engine: VllmEngine, tmp_path: Path, strategy: PluginSpec, selector: PluginSpec
) -> tuple[Result, list[Trace]]:
    plan = Plan(
        strategy=strategy,
        selector=selector,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=48),
    )
    with open_job(tmp_path, plan, [PROBLEM]) as job:
        [result] = [r async for r in api.run_job(job, plan, Execution(), factory=Shared(engine))]
    return result, api.traces(tmp_path, PROBLEM.id)


async def test_a_model_judges_prefixes_and_only_chosen_ones_go_on(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """Prefixes of 12 tokens, verdicts of one token, two traces finish; all that is asked is charged
    to its account.
    """
    options = {
        "n": 4,
        "prefix_tokens": 12,
        "n_words": 0,
        "judge": "llm",
        "n_finished": 2,
        "n_single": 2,
    }
    result, traces = await solved(
        vllm_engine, tmp_path, PluginSpec("deepprune", options), PluginSpec("majority")
    )
    assert not result.error
    judged = [t for t in traces if t.purpose is Purpose.COMPARE]
    assert judged
    assert {t.usage.output_tokens for t in judged} == {1}
    assert sum(t.parent is not None for t in traces) == 2
    assert result.usage[Purpose.PRUNED].output_tokens <= 2 * 12
    # what the prefix left of 48
    assert all(t.usage.output_tokens <= 36 for t in traces if t.parent is not None)
    assert not vllm_engine.n_running()


async def test_traces_below_the_floor_are_stopped_in_the_engine(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """keep = .1: nine of ten fall below the best of the warm-up; what is stopped ends short of its
    limit and does not vote.
    """
    options = {"n": 10, "n_init": 4, "keep": 0.1, "window_tokens": 4, "wave": 6, "consensus": 1.0}
    by = PluginSpec("weighted", {"by": "lowest_confidence@4"})
    result, traces = await solved(vllm_engine, tmp_path, PluginSpec("deepconf", options), by)
    assert not result.error
    stopped = [t for t in traces if t.finish is Finish.RULE]
    assert all(4 <= t.usage.output_tokens <= 48 for t in stopped)
    assert not {o for c in result.clusters for o in c.ordinals} & {t.ordinal for t in stopped}
    assert {t.ordinal for t in stopped} <= result.dropped.keys()
    assert not vllm_engine.n_running()
