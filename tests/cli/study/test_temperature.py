"""`leadline temperature`: what it prints, writes and refuses. The numbers behind it have their own
tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

import orchestrator
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry

Run = Callable[..., Result]
opened: list[int] = []  # one entry per engine that was started
temperatures: list[float] = []  # of every request


@registry.engine("test-turning")
@dataclass(frozen=True, slots=True)
class Turning:
    """An engine whose entropy at a temperature is known; it may break at one."""

    turn: float = 0.75
    fails_at: float = 0.0

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.LOGPROBS, Capability.SEED})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Turning]:
        opened.append(1)
        yield self

    async def generate(self, request: Request) -> Trace:
        assert request.sampling is not None
        t = request.sampling.temperature
        temperatures.append(t)
        if t == self.fails_at:
            raise orchestrator.EngineError("this engine breaks at that temperature")
        metrics = {"mean_logprob": -math.exp((t - self.turn) ** 3 + 0.5 * t)}
        return trace_for(
            request, Finish.STOP, text="The answer is 4.", metrics=metrics, usage=Usage(1, 0, 1)
        )

    def abort(self, request: Request) -> None:
        """Nothing runs long enough to be aborted."""


@registry.engine("test-bare")
@dataclass(frozen=True, slots=True)
class Bare(Turning):
    """The same without log-probabilities."""

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.SEED})


@pytest.fixture
def measured(cli: Run) -> Run:
    """The command with a plan for the engine above, and no request counted yet."""
    Path("plan.toml").write_text(
        'problems = "p.jsonl"\ndomain = "number"\n[execution.engine]\nname = "test-turning"\n'
    )
    opened.clear()
    temperatures.clear()
    return cli


def test_the_turn_of_the_engines_curve_is_found_on_one_engine(measured: Run) -> None:
    """The curve turns at .75, so .8 is the first grid point behind it; fourteen jobs, one engine;
    best-of-n takes 0.1 more.
    """
    done = measured("temperature", "plan.toml", "--samples", "4")
    assert done.exit_code == 0, done.output
    assert "sampling.temperature = 0.8" in done.stdout
    assert "◆" in next(line for line in done.stdout.splitlines() if line.split()[:1] == ["0.8"])
    assert len(opened) == 1
    again = measured("temperature", "plan.toml", "--samples", "4", "--for", "best", "--json")
    choice = json.loads(again.stdout)
    assert (choice["temperature"], choice["turn"], len(choice["entropies"])) == (0.9, 0.8, 14)
    assert len(opened) == 1, "all was there"
    assert json.loads(Path("runs/plan-temperature/temperature.json").read_text()) == choice


def test_a_measurement_that_was_cut_continues(measured: Run) -> None:
    """What arrived at earlier temperatures is not sampled again."""
    flags = ("temperature", "plan.toml", "--samples", "2", "--temperatures", "0.4,0.6,0.8,1.0,1.2")
    cut = measured(*flags, "--execution.engine.fails_at", "0.8")
    assert cut.exit_code == 1
    assert "breaks at that temperature" in cut.stderr
    assert temperatures[:4] == [0.4, 0.4, 0.6, 0.6]
    temperatures.clear()
    assert "sampling.temperature = 0.8" in measured(*flags, "-q").stdout
    assert temperatures == [0.8, 0.8, 1.0, 1.0, 1.2, 1.2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--temperatures", "0.5,0.7"],
            "--temperatures '0.5,0.7': give at least three numbers above 0, ascending",
        ),
        (["--temperatures", "0.5,0.4,0.7"], "ascending, as in 0.4,0.6,0.8,1.0"),
        (["--temperatures", "0,1,x"], "--temperatures '0,1,x'"),
        (["--execution.engine", "vllm"], "set the vLLM engine's option processed_logprobs = true"),
        (
            ["--execution.engine", "test-bare"],
            "needs 'logprobs', which engine 'test-bare' does not offer",
        ),
        (["--out", "job"], "job is the directory of a job; choose another with --out"),
        (["--sampling.temperature", "1"], "No such option"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    measured: Run, arguments: list[str], message: str
) -> None:
    """Before anything starts, with a remedy."""
    measured("run", "plan.toml", "--out", "job", "--limit", "1", "-q")
    opened.clear()
    refused = measured("temperature", "plan.toml", *arguments)
    assert refused.exit_code == 2, refused.output
    assert message in refused.stderr
    assert not opened
