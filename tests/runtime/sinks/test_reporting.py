"""Which events of a job sinks receive, and that no sink can hold up, fail or change a job."""

from __future__ import annotations

import json
import random
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator import (
    Execution,
    Plan,
    PlanError,
    Problem,
    ProblemFinished,
    Request,
    RunEnded,
    RunStarted,
    TraceFinished,
)
from orchestrator.cli.main import leadline
from orchestrator.core.steps import Steps, cancel, drop, next_trace, submit
from orchestrator.core.values import Delimiter, Finish, Purpose, Usage
from orchestrator.plan import registry
from orchestrator.plan.file import load_plan
from orchestrator.plan.file.record import plan_toml
from orchestrator.runtime.sinks import delivery
from orchestrator.runtime.sinks.delivery import Delivery
from orchestrator.runtime.sinks.events import Event, Receive

PLAN = Plan(strategy={"name": "consistency", "n": 2}, domain="number")
SEEN: list[Event] = []


@dataclass(frozen=True, slots=True)
class Memory:
    """Keep all events."""

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        sys.stdout.write("welcome")
        sys.stderr.write("welcome")
        yield SEEN.extend


@dataclass(frozen=True, slots=True)
class Broken:
    """Fail at the first problem."""

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        def receive(events: Sequence[Event]) -> None:
            if any(isinstance(event, ProblemFinished) for event in events):
                raise RuntimeError("the server is gone")

        yield receive


@dataclass(frozen=True, slots=True)
class NeedsMore:
    """Need a package that nobody has."""

    packages: ClassVar[dict[str, str]] = {"a_package.nobody_has": "leadline[nothing]"}

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        yield SEEN.extend


@dataclass(frozen=True, slots=True)
class Dropping:
    """Lose an attempt in each of the ways there are."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        ordinals = yield from submit([Request()] * 2)
        for _ in ordinals:
            yield from next_trace()
        yield from drop([0], heir=1)  # after it arrived
        cut = yield from submit([Request(rules=(Delimiter(" "),))])
        yield from next_trace(cut)
        running = yield from submit([Request()] * 2)
        yield from drop(running[:1])
        yield from cancel(running[1:])


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    named = {"memory": Memory, "broken": Broken, "needs-more": NeedsMore}
    monkeypatch.setitem(registry._decorated, "sinks", named)
    monkeypatch.setitem(registry._decorated, "strategies", {"dropping": Dropping})


def execution(*sinks: Any, **options: Any) -> Execution:
    return Execution({"name": "fake", **options}, sinks=sinks)


def seen(kind: type) -> list[Any]:
    return [event for event in SEEN if isinstance(event, kind)]


def test_a_run_is_told_from_its_start_to_its_totals(capsys: pytest.CaptureFixture[str]) -> None:
    """In order, each trace once, and with the numbers that the results have."""
    results = orchestrator.run(["1 + 1?", "2 + 2?"], PLAN, execution("memory"))
    assert isinstance(SEEN[0], RunStarted)
    assert isinstance(SEEN[-1], RunEnded)
    assert (SEEN[0].n_problems, SEEN[0].n_done, SEEN[0].plan) == (2, 0, results.plan)
    traces = seen(TraceFinished)
    assert Counter(t.problem_id for t in traces) == {"1": 2, "2": 2}
    assert {(t.purpose, t.finish, t.dropped_by) for t in traces} == {("solve", "stop", "")}
    assert sorted(e.result.problem_id for e in seen(ProblemFinished)) == ["1", "2"]
    for event in seen(ProblemFinished):
        assert event.result in results
        assert event.agreement == event.result.clusters[0].count / 2
        assert SEEN.index(event) > max(
            SEEN.index(t) for t in traces if t.problem_id == event.result.problem_id
        )
    ended = SEEN[-1]
    assert (ended.reason, ended.n_by_status, ended.n_lost) == ("done", {"answered": 2}, 0)
    assert ended.usage["solve"] == sum((t.usage for t in traces), Usage())
    assert capsys.readouterr() == ("", ""), "a sink's library prints; a program's output is its own"


def test_each_way_to_lose_an_attempt_is_named() -> None:
    """Dropped while it ran, cancelled, cut by a rule; and dropped after it had arrived."""
    plan = Plan(strategy="dropping", domain="number")
    orchestrator.run(["1 + 1?"], plan, execution("memory"))
    ends = {t.ordinal: (t.finish, t.dropped_by) for t in seen(TraceFinished)}
    assert ends == {
        0: (Finish.STOP, ""),
        1: (Finish.STOP, ""),
        2: (Finish.RULE, "delimiter"),
        3: (Finish.CANCELLED, "dropping"),
        4: (Finish.CANCELLED, "dropping"),
    }
    [problem] = seen(ProblemFinished)
    assert problem.dropped == {0: "dropping", 3: "dropping"}


def test_a_job_that_grows_is_one_run_to_its_sinks(tmp_path: Path) -> None:
    """Its id stays, so a tracker continues; what was told is not told again."""
    orchestrator.run(["1 + 1?"], PLAN, execution("memory"), out=tmp_path)
    first = SEEN[0]
    SEEN.clear()
    orchestrator.run(["1 + 1?", "2 + 2?"], PLAN, execution("memory"), out=tmp_path)
    assert isinstance(first, RunStarted)
    assert isinstance(SEEN[0], RunStarted)
    assert (SEEN[0].job_id, SEEN[0].n_done) == (first.job_id, 1)
    assert {t.problem_id for t in seen(TraceFinished)} == {"2"}
    assert seen(RunEnded)[0].n_by_status == {"answered": 2}
    SEEN.clear()
    orchestrator.run(["1 + 1?", "2 + 2?"], PLAN, execution("memory"), out=tmp_path)
    assert SEEN == [], "nothing remains to be done, so there is no run"


def test_a_sink_that_fails_is_named_once_and_the_job_and_other_sinks_continue() -> None:
    """Its results are those without it."""
    alone = orchestrator.run([str(i) for i in range(9)], PLAN, execution())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = orchestrator.run([str(i) for i in range(9)], PLAN, execution("broken", "memory"))
    [warning] = caught
    assert str(warning.message).startswith(
        "sink 'broken' failed and gets no more events: RuntimeError: the server is gone"
    )
    assert [(r.problem_id, r.answer) for r in results] == [(r.problem_id, r.answer) for r in alone]
    assert len(seen(ProblemFinished)) == 9


class Stuck:
    """A sink whose opening takes until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.got: list[Event] = []

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        self.release.wait()
        yield self.got.extend


def trace(ordinal: int) -> TraceFinished:
    return TraceFinished(
        "p", ordinal, Purpose.SOLVE, Finish.STOP, "", None, None, Usage(), True, "", 0.0
    )


STARTED = RunStarted("id", "name", "dir", PLAN, "", 1, 0, 0.0)
ENDED = RunEnded("done", 1, {}, {}, 1.0, 1.0)


def test_a_slow_sink_loses_events_which_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handing over never waits: this test would hang otherwise. The end is never lost."""
    monkeypatch.setattr(delivery, "QUEUE_EVENTS", 10)
    sink, notes = Stuck(), list[str]()
    with Delivery([("slow", sink)], STARTED, notes.append) as delivering:
        for ordinal in range(12):
            delivering.hand_over(trace(ordinal))
        delivering.hand_over(ENDED)
        sink.release.set()
    assert [type(event) for event in sink.got] == [RunStarted, *[TraceFinished] * 9, RunEnded]
    assert isinstance(sink.got[-1], RunEnded)
    assert sink.got[-1].n_lost == 3
    assert notes == ["sink 'slow' was too slow: 3 events are lost"]


def test_a_sink_that_does_not_end_is_left_behind() -> None:
    """The end of a run waits for it no longer than the limit."""
    sink, notes = Stuck(), list[str]()
    with Delivery([("stuck", sink)], STARTED, notes.append, flush_seconds=0.0) as delivering:
        delivering.hand_over(ENDED)
    assert notes == ["sink 'stuck' did not finish within 0 s; 2 events were not delivered"]
    sink.release.set()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "a", "prompt": "1 + 1?", "answer": 2}, {"id": "b", "prompt": "2?", "answer": 2}]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def lead(*arguments: str) -> Any:
    return CliRunner().invoke(leadline, arguments)


RUN = ("run", "--problems", "sums.jsonl", "--execution.engine", "fake", "--strategy.n", "2")


def test_the_command_line_tells_the_accuracy_and_its_sinks_are_kept(folder: Path) -> None:
    """`--sink` names them; plan.toml has them, so `resume` reports there too."""
    done = lead(*RUN, "--limit", "1", "--out", "job", "--sink", "memory", "--json")
    assert done.exit_code == 0, done.output
    json.loads(done.stdout)
    [ended] = seen(RunEnded)
    assert ended.accuracy.n == len(ended.right) == 1
    assert ended.accuracy.value == ended.right["a"]
    assert ended.accuracy.low <= ended.accuracy.value <= ended.accuracy.high
    assert load_plan("job/plan.toml").execution.sinks[0].name == "memory"
    SEEN.clear()
    assert lead(*RUN, "--out", "job").exit_code == 0
    assert SEEN == [], "no sink decides an answer: another one, or none, is the same job"


def test_a_plan_may_write_sinks_as_tables_or_as_a_list(folder: Path) -> None:
    """And a flag wins, but keeps the options that the file has for that sink."""
    Path("tables.toml").write_text('[sinks.prometheus]\npath = "a.prom"\n[sinks.memory]\n')
    Path("list.toml").write_text('sinks = ["prometheus?path=a.prom", {name = "memory"}]\n')
    for name in ("tables.toml", "list.toml"):
        sinks = load_plan(name, {"execution.engine": "fake"}).execution.sinks
        assert [(s.name, dict(s.options)) for s in sinks] == [
            ("prometheus", {"path": "a.prom"}),
            ("memory", {}),
        ]
    flags = {"execution.engine": "fake", "sinks": '["prometheus"]'}
    loaded = load_plan("tables.toml", flags)
    assert [dict(s.options) for s in loaded.execution.sinks] == [{"path": "a.prom"}]
    Path("again.toml").write_text(plan_toml(loaded.plan, loaded.execution))
    assert load_plan("again.toml").execution == loaded.execution


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        ("memroy", r"there is no sink 'memroy' \(did you mean 'memory'\?\)"),
        ("needs-more", r"needs a_package.nobody_has.*pip install 'leadline\[nothing\]'"),
        ("prometheus?path=a.txt", r"path = 'a.txt': it must be a text"),
        ("prometheus?paht=a.prom", r"has no option 'paht'"),
        ("prometheus?path", r"after the name come \?KEY=VALUE"),
    ],
)
def test_a_wrong_sink_is_refused_before_anything_starts(sink: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        load_plan(None, {"execution.engine": "fake", "sinks": json.dumps([sink])})
