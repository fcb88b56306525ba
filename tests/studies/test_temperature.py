"""TURN: the turning point of synthetic entropy curves, and a measurement by the public API."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import (
    Capability,
    Finish,
    PluginSpec,
    Problem,
    Request,
    Sampling,
    Trace,
    Usage,
)
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.studies.temperature import FOR_BEST, GRID, choose_temperature, turning_point


def curve(turn: float) -> list[float]:
    """Entropies whose log is concave below `turn` and convex above it: its second derivative is 6
    (T - turn).
    """
    return [math.exp((t - turn) ** 3 + 0.5 * t) for t in GRID]


@pytest.mark.parametrize(("turn", "chosen"), [(0.75, 0.8), (0.45, 0.5), (1.05, 1.1), (0.62, 0.7)])
def test_the_first_grid_point_behind_the_turn_of_a_synthetic_curve_is_chosen(
    turn: float, chosen: float
) -> None:
    """A second difference of a cubic is exact, so the sign changes where the second derivative
    does.
    """
    assert turning_point(GRID, curve(turn)) == chosen


def test_ends_of_the_grid_are_never_chosen() -> None:
    """Convex everywhere: the first interior point. Concave everywhere: the last interior point."""
    assert turning_point(GRID, [math.exp(t * t) for t in GRID]) == 0.2
    assert turning_point(GRID, [math.exp(-t * t) for t in GRID]) == 1.3
    assert turning_point(GRID, [0.7] * len(GRID)) == 1.3, (
        "a flat curve is convex nowhere, whatever rounding says"
    )


def test_five_points_by_hand() -> None:
    """log H = 0, 2, 3, 5, 9 at T = 1 to 5: slopes 2, 1.5, 1.5, 3, 4; their slopes inside: -.25,
    .75, 1.25. The first positive is at 3.
    """
    logs = [0.0, 2.0, 3.0, 5.0, 9.0]
    assert np.gradient(np.gradient(logs)).tolist()[1:-1] == [-0.25, 0.75, 1.25]
    assert turning_point([1, 2, 3, 4, 5], np.exp(logs).tolist()) == 3


@pytest.mark.parametrize(
    ("temperatures", "entropies"),
    [
        ([1, 2], [1, 2]),
        ([1, 2, 3], [1, 2]),
        ([1, 3, 2], [1, 2, 3]),
        ([1, 2, 3], [1, 0, 2]),
        ([1, 2, 3], [1, math.nan, 2]),
    ],
)
def test_what_is_no_curve_is_refused(temperatures: list[float], entropies: list[float]) -> None:
    """A log of zero or a fallen grid would give a temperature without meaning."""
    with pytest.raises(ValueError, match="entropies"):
        turning_point(temperatures, entropies)


@registry.engine("entropic")
@dataclass(frozen=True, slots=True)
class Entropic:
    """An engine whose entropy at a temperature is known; `silent` gives no log-probabilities."""

    turn: float = 0.75
    silent: bool = False

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.LOGPROBS, Capability.SEED})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Entropic]:
        yield self

    async def generate(self, request: Request) -> Trace:
        sampling = request.sampling
        assert sampling is not None
        assert (sampling.top_p, sampling.top_k, sampling.max_new_tokens) == (1.0, 0, 1024)
        entropy = math.exp((sampling.temperature - self.turn) ** 3 + 0.5 * sampling.temperature)
        noise = 1 + 0.1 * (-1) ** request.ordinal  # two traces of a problem cancel out
        metrics = {} if self.silent else {"mean_logprob": -entropy * noise}
        return trace_for(
            request, Finish.STOP, text="The answer is 4.", metrics=metrics, usage=Usage(1, 0, 1)
        )

    def abort(self, request: Request) -> None:
        """Nothing runs long enough to be aborted."""


QUESTIONS = [Problem(f"p{i}", "2 + 2?", "number") for i in range(2)]


def test_the_measured_curve_is_the_engines_and_leads_to_its_turn() -> None:
    """Two problems, sixteen traces each, at seven temperatures; best-of-n adds .1.

    The plan's own strategy and cut-offs are left aside.
    """
    plan = Plan(
        strategy=PluginSpec("adaptive"), sampling=Sampling(temperature=0.3, top_p=0.5, top_k=5)
    )
    grid = GRID[3:10]
    choice = choose_temperature(
        QUESTIONS,
        plan,
        Execution(engine=PluginSpec("entropic")),
        temperatures=grid,
        offset=FOR_BEST,
    )
    assert choice.entropies == pytest.approx(curve(0.75)[3:10])
    assert (choice.temperatures, choice.temperature) == (grid, 0.9)


def test_nothing_to_measure_is_an_error() -> None:
    """No problems, or an engine that gives no log-probabilities: never a default temperature."""
    with pytest.raises(PlanError, match="at least one"):
        choose_temperature([], Plan(), Execution(engine=PluginSpec("entropic")))
    with pytest.raises(PlanError, match=r"no trace at temperature 0\.1"):
        choose_temperature(
            QUESTIONS, Plan(), Execution(engine=PluginSpec("entropic", {"silent": True}))
        )


@pytest.mark.parametrize(
    "engine",
    [PluginSpec("vllm"), PluginSpec("ray"), PluginSpec("ray", {"options": {"threads": 1}})],
)
def test_an_engine_that_reports_raw_log_probabilities_is_refused(engine: PluginSpec) -> None:
    """Before it starts: the curve would be a cross-entropy, and its turning point another,
    silently.
    """
    with pytest.raises(PlanError, match="processed_logprobs = true"):
        choose_temperature(QUESTIONS, Plan(), Execution(engine=engine))
