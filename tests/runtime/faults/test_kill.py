"""Kill -9 at random points and resume: no journalled trace is repeated, lost or mispaired.

A child process is forked for every run, with all modules imported, and killed with its process
group after a random number of requests. Its engine writes the identity of every request that it
serves to a file, so repeated requests are detected.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, PluginSpec, Problem, Request, Trace
from orchestrator.engines.fake.engine import Fake, FakeEngine, problem_number
from orchestrator.plan.execution import Execution

N_POINTS = 200
N_PROBLEMS = 60
N_SERVED = 300  # most requests served between two kills
PROBLEMS = [Problem(f"p{i}", f"Question {i}?", "number") for i in range(N_PROBLEMS)]


@orchestrator.engine("recording")
@dataclass(frozen=True, slots=True)
class Recording:
    """The fake engine, which also records its requests."""

    log: str = ""

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[RecordingEngine]:
        yield RecordingEngine(Path(self.log))


class RecordingEngine(FakeEngine):
    def __init__(self, log: Path) -> None:
        super().__init__(
            Fake(answers=("{hash}", "{hash}", "5000"), seconds_per_token=0.0004, spread_tokens=40)
        )
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def generate(self, request: Request) -> Trace:
        os.write(self._log, f"{request.problem_id} {request.ordinal}\n".encode())
        return await super().generate(request)


def run_job(out: Path, log: Path, plan: Plan) -> None:
    execution = Execution(engine=PluginSpec("recording", {"log": str(log)}), window=16)
    orchestrator.run(PROBLEMS, plan, execution, out=out)


def run_and_kill(out: Path, log: Path, plan: Plan, n_served: int | None) -> bool:
    """Run the job in its own process group; return True if it ended by itself.

    The group is killed once its engine has served `n_served` more requests (None: never).
    """
    n_lines = len(served(log)) + (n_served or 0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            run_job(out, log, plan)
            code = 0
        finally:
            os._exit(code)
    while n_served is not None and len(served(log)) < n_lines:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.WEXITSTATUS(status) == 0
            return True
        time.sleep(0.001)
    if n_served is not None:
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:  # killed before it had its own group, or ended
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def journalled(out: Path) -> dict[tuple[str, int], tuple[int, bytes]]:
    """Return every journalled trace by identity: its position and its body."""
    if not (out / "journal.db").exists():
        return {}
    db = sqlite3.connect(out / "journal.db")
    try:
        rows = db.execute(
            "SELECT problem, ordinal, seq, body FROM events WHERE ordinal IS NOT NULL"
        ).fetchall()
    except sqlite3.OperationalError:  # killed before the tables were created
        return {}
    finally:
        db.close()
    return {(problem, ordinal): (seq, body) for problem, ordinal, seq, body in rows}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "strategy",
    [PluginSpec("consistency", {"n": 12}), PluginSpec("adaptive", {"n": 12, "wave": 3})],
    ids=["fixed", "adaptive"],
)
def test_no_trace_is_lost_repeated_or_mispaired_at_200_points(
    tmp_path: Path, strategy: PluginSpec
) -> None:
    """Each strategy gets half of the points.

    Jobs that end are started again, so that the points cover whole jobs.
    """
    rng = random.Random(7)
    plan = Plan(strategy=strategy)
    reference = {r.problem_id: r for r in _uninterrupted(tmp_path, plan)}
    n_killed = n_jobs = n_found = 0
    while n_killed < N_POINTS // 2:
        n_jobs += 1
        out, log = tmp_path / f"job{n_jobs}", tmp_path / f"log{n_jobs}"
        ended = False
        while not ended:
            before = journalled(out)
            served_before = served(log)
            n_served = rng.randrange(N_SERVED) if n_killed < N_POINTS // 2 else None
            ended = run_and_kill(out, log, plan, n_served)
            n_killed += not ended
            after = journalled(out)
            assert {k: after[k] for k in before} == before, (
                "a journalled trace was lost or rewritten"
            )
            again = set(served(log)[len(served_before) :]) & before.keys()
            assert not again, f"generated again although journalled: {again}"
            n_found += len(after) - len(before)
        _check_end(out, plan, reference)
    assert n_found >= n_jobs * N_PROBLEMS * 3


def served(log: Path) -> list[tuple[str, int]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(problem, int(ordinal)) for problem, ordinal in map(str.split, lines)]


def _uninterrupted(tmp_path: Path, plan: Plan) -> list[orchestrator.Result]:
    run_job(tmp_path / "whole", tmp_path / "whole.log", plan)
    return orchestrator.run(PROBLEMS, plan, Execution(), out=tmp_path / "whole")


def _check_end(out: Path, plan: Plan, reference: dict[str, orchestrator.Result]) -> None:
    results = orchestrator.run(PROBLEMS, plan, Execution(), out=out)  # finished: starts no engine
    assert len(results) == N_PROBLEMS
    for result in results:
        own = problem_number(result.problem_id)
        stated = {
            t.answer.text
            for t in orchestrator.traces(out, result.problem_id)
            if t.answer is not None
        }
        assert stated <= {own, "5000"}, "a trace is paired with another problem"
        # the vote has the same traces for any order of arrival
        if plan.strategy.name == "consistency":
            whole = reference[result.problem_id]
            assert (result.answer, result.clusters, result.n_traces) == (
                whole.answer,
                whole.clusters,
                whole.n_traces,
            )
