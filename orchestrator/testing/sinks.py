"""The contract of sinks: any run is received, in batches of any size, and nothing outlives it.

Not checked: what a sink makes of the events, and how fast it is; a slow one loses events and
holds up nothing.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.plan import Plan, fingerprint
from orchestrator.core.values import Answer, Cluster, Finish, Purpose, Result, Status, Usage
from orchestrator.runtime.sinks.events import (
    Accuracy,
    Event,
    ProblemFinished,
    RunEnded,
    RunStarted,
    Sink,
    TraceFinished,
)
from orchestrator.testing.rules import check_value, require

KINDS = (RunStarted, TraceFinished, ProblemFinished, RunEnded)
_BEGAN = 1_700_000_000.0
_JOIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Recording:
    """The events of one run, and the size of the batches in which a sink gets them (0: all)."""

    what: str
    events: tuple[Event, ...]
    size: int = 0


def check_sink(sink: Sink) -> None:
    """Check the contract of a sink on runs of every kind; it really reports them.

    Called with a sink whose options name a place for tests.
    """
    check_value(sink)
    kinds = getattr(sink, "events", KINDS)
    require(
        isinstance(kinds, tuple) and set(kinds) <= set(KINDS) and bool(kinds),
        "events",
        f"{kinds!r}: a tuple of the kinds of event that it wants",
    )
    packages = getattr(sink, "packages", {})
    require(
        all(isinstance(one, str) for pair in packages.items() for one in pair),
        "packages",
        f"{packages!r}: modules, each with what to install for it",
    )
    before = set(threading.enumerate())
    for recording in recordings():
        _play(sink, recording, kinds)
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in left:
        thread.join(_JOIN_SECONDS)
    require(
        not any(thread.is_alive() for thread in left),
        "nothing outlives its run",
        f"threads that are no daemons keep the process: {[t.name for t in left]}",
    )


def _play(sink: Sink, recording: Recording, kinds: Sequence[type]) -> None:
    """Let a sink receive a run, as the delivery does."""
    started, *_ = recording.events
    assert isinstance(started, RunStarted)
    before = copy.deepcopy(recording.events)
    wanted = [event for event in recording.events if type(event) in kinds]
    size = recording.size or len(wanted)
    try:
        with sink.open(started) as receive:
            for first in range(0, len(wanted), size):
                receive(wanted[first : first + size])
    except Exception as error:
        raise AssertionError(f"any run: it raised at {recording.what}: {error!r}") from error
    require(before == recording.events, "pure", "it changed the events, which others receive too")


def recordings() -> Iterator[Recording]:
    """Yield a whole run, the same job continued, an empty run and an interrupted one."""
    problems = [_problem(n, status) for n, status in enumerate(Status) if status != Status.INVALID]
    whole = [event for problem in problems for event in problem]
    start, end = _start("job-1"), _end(problems, "done")
    yield Recording("a whole run, event by event", (start, *whole, end), size=1)
    resumed = replace(start, n_done=len(problems), n_problems=9)
    yield Recording("the same job, continued", (resumed, *_problem(7, Status.ANSWERED), end))
    yield Recording("a run without problems", (_start("job-2"), _end([], "done")))
    some = (_start("job-3"), *whole, *_problem(8, Status.ANSWERED)[:-1])
    yield Recording("an interrupted run", (*some, _end(problems, "interrupted")))
    failed = replace(_end(problems, "failed"), accuracy=None, right={}, n_lost=3)
    yield Recording("a failed run", (_start("job-4"), failed))


def _start(job_id: str) -> RunStarted:
    plan = Plan(models="smollm2", strategy={"name": "consistency", "n": 4, "list": ["a", "b"]})
    name = 'consistency n=4 · "smollm2"\non fake'
    return RunStarted(job_id, name, "/runs/ü b", plan, fingerprint(plan), 9, 0, _BEGAN)


def _problem(number: int, status: Status) -> tuple[Event, ...]:
    """Return the traces of a problem, one of every finish and purpose, and its result."""
    id, time = f"p{number} <ü>\n", _BEGAN + number
    traces = [
        TraceFinished(
            problem_id=id,
            ordinal=ordinal,
            purpose=purpose,
            finish=finish,
            model="main",
            depth=ordinal or None,
            parent=ordinal - 1 if finish is Finish.RULE else None,
            usage=Usage(5, 0, 10 * ordinal, 0, 0.5),
            has_answer=finish is Finish.STOP,
            dropped_by="word limit" if finish is Finish.RULE else "",
            time=time + ordinal / 10,
        )
        for ordinal, (finish, purpose) in enumerate(
            (finish, purpose)
            for finish in Finish
            for purpose in Purpose
            if purpose != Purpose.PRUNED
        )
    ]
    answer = Answer("42 <b>", "42") if status is Status.ANSWERED else None
    result = Result(
        id,
        status,
        answer,
        (Cluster(answer, (0, 1), 2.0),) if answer else (),
        {purpose.value: Usage(5, 0, 50, 0, 1.5) for purpose in Purpose},
        n_traces=len(traces),
        attempts={"voted": 2, "dropped": 1},
        dropped={2: None},
        seconds=1.5,
        error="every trace failed" if status is Status.FAILED else "",
    )
    return (*traces, ProblemFinished(result, 0.5, {2: "deepprune"}, time + 5))


def _end(problems: Sequence[Sequence[Event]], reason: str) -> RunEnded:
    return RunEnded(
        reason=reason,
        n_problems=9,
        n_by_status={"answered": len(problems)},
        usage={"solve": Usage(5, 0, 50, 0, 1.5)},
        seconds=12.5,
        time=_BEGAN + 60,
        accuracy=Accuracy(1.0, 0.2, 1.0, 1),
        right={"p0 <ü>\n": True},
    )
