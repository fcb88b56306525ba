"""The recording behind the port of an engine: the contract, continuation, and a job that is
resumed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import (
    Capability,
    Finish,
    Message,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Sampling,
)
from orchestrator.plan.execution import Execution
from orchestrator.studies.replay.engine import Replay
from orchestrator.testing import check_engine

MODELS = {"main": Model("recorded")}


def texts(path: Path) -> str:
    """Twenty traces of 300 tokens each for the three problems that the contract uses."""
    traces = [
        {"text": f"{i:02d} " * 400 + rf"\boxed{{{i}}}", "tokens": 300, "prm_score": 0.5}
        for i in range(20)
    ]
    path.write_text(
        json.dumps(
            {
                "records": [
                    {"problem_id": id, "gold": "1", "traces": traces}
                    for id in ("check", "check-a", "check-b")
                ]
            }
        )
    )
    return str(path)


def probed(path: Path) -> str:
    branch = [["3", "4"], 25, "4"]
    path.write_text(
        json.dumps(
            [{"question": "?", "gold_answer": "4", "probe_freq": 10, "each_branch": [branch] * 3}]
        )
    )
    return str(path)


def request(**fields: object) -> Request:
    return replace(
        Request(prompt="?", model="main", problem_id="q000", ordinal=0, seed=5, max_new_tokens=10),
        **fields,
    )  # type: ignore[arg-type]


async def test_it_keeps_the_contract_of_engines(tmp_path: Path) -> None:
    """Pairing, seeds, limits, aborts, cancellation.

    Continuation is below: the contract forces a suffix that no recording holds.
    """
    backend = Replay(texts(tmp_path / "t.json"), seconds_per_token=0.001)
    async with backend.open(MODELS) as engine:
        await check_engine(engine, backend.capabilities() - {Capability.CONTINUE}, wait_seconds=20)


async def test_a_continuation_finds_its_trace_in_what_it_inherits(tmp_path: Path) -> None:
    """10 tokens, a probe there, then the other 15; the answer stands in the text, as a dresser
    reads it.
    """
    async with Replay(probed(tmp_path / "p.json")).open(MODELS) as engine:
        first = await engine.generate(request())
        assert (first.finish, len(first.token_ids), first.text) == (Finish.LENGTH, 10, "")
        after = request(ordinal=1, parent=0, prefix_ids=first.token_ids)
        probe = await engine.generate(replace(after, suffix="So:", purpose=Purpose.PROBE))
        assert (probe.text, probe.usage.output_tokens) == (r"\boxed{3}", 0)
        rest = await engine.generate(replace(after, ordinal=2, max_new_tokens=None))
        assert (rest.finish, len(rest.token_ids), rest.text) == (Finish.STOP, 15, r"\boxed{4}")


async def test_what_is_not_recorded_fails_the_trace_and_says_so(tmp_path: Path) -> None:
    """A bad trace is data: the job goes on."""
    async with Replay(probed(tmp_path / "p.json")).open(MODELS) as engine:
        unknown = await engine.generate(request(problem_id="other"))
        assert (unknown.finish, unknown.error) == (
            Finish.FAILED,
            "recording p contains no traces of problem 'other'",
        )
        forced = await engine.generate(
            request(ordinal=1, parent=0, prefix_ids=(0,) * 10, suffix="Wait")
        )
        assert forced.finish is Finish.FAILED
        assert "forced text 'Wait'" in forced.error
        after_probe = await engine.generate(
            request(ordinal=1, parent=0, prefix_ids=(*(0,) * 10, -1))
        )
        assert "nothing that follows trace 0" in after_probe.error


async def test_what_shows_an_earlier_attempt_fails_and_says_so(tmp_path: Path) -> None:
    """A revision's conversation has turns that the problem has not; the plan's own template and
    system message are its own prompt.
    """
    talk = (Message("user", "?"), Message("assistant", "4"), Message("user", "Review."))
    async with Replay(probed(tmp_path / "p.json")).open(MODELS) as engine:
        for prompt in ("Solve: ?", (Message("system", "Be brief."), Message("user", "Solve: ?"))):
            assert (await engine.generate(request(prompt=prompt))).finish is Finish.LENGTH
        revised = await engine.generate(request(prompt=talk))
        assert revised.finish is Finish.FAILED
        assert "no attempt at another prompt than the problem's own" in revised.error
        beyond = await engine.generate(request(ordinal=1, subjects=(0,)))
        assert "no attempt that goes beyond others" in beyond.error


@pytest.mark.parametrize(
    "strategy",
    [
        PluginSpec("sounding", {"n": 4, "interval": 10, "patience": 2}),
        PluginSpec("consistency", {"n": 4}),
    ],
)
def test_a_whole_job_runs_on_a_recording(tmp_path: Path, strategy: PluginSpec) -> None:
    """Sessions, dressing, journal and vote as in any job; every attempt states 4."""
    engine = PluginSpec("replay", {"source": probed(tmp_path / "p.json")})
    plan = Plan(strategy=strategy, domain="number", sampling=Sampling(max_new_tokens=1000))
    [result] = orchestrator.run(
        [Problem("q000", "?", "number")], plan, Execution(engine=engine), out=tmp_path / "job"
    )
    assert result.error == ""
    assert result.answer is not None
    assert result.answer.text == "4"
    assert sum(u.output_tokens for u in result.usage.values()) in (50, 75, 100)
