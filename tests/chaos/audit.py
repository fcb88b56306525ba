"""What must hold of every job directory, however its processes ended.

The one rule: everything is judged by the journal alone. Each trace is compared with the reply that
the fake engine gives to the request of that identity, and each result with the replay of its
problem's events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.session import Session
from orchestrator.core.values import Finish, Problem, Request, Result, Status, Trace
from orchestrator.core.votes import VOTING
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.engines.reply import validated
from orchestrator.jobs.journal import Arrived, Journal, Stopped
from orchestrator.jobs.sessions import Explorer

_CONTENT = ("text", "token_ids", "finish", "stop", "values", "usage", "metrics", "suffix_ids")
_ORIGIN = ("parent", "purpose", "model", "depth", "subjects")


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal has: of each problem its events, as they are written, and its result."""

    rows: Mapping[str, Sequence[tuple[Any, ...]]]
    results: Mapping[str, Result]
    unsettled: frozenset[str]  # problems that another run tries again

    @property
    def finished(self) -> set[tuple[str, int]]:
        """The identities of traces that must not be generated again."""
        return {
            (id, ordinal)
            for id, rows in self.rows.items()
            for ordinal, _, _ in rows
            if ordinal is not None and id not in self.unsettled
        }


def contents(journal: Journal) -> Contents:
    """Return what a journal has."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    failures: dict[str, set[bool]] = {}
    for id, ordinal, body, tokens in journal._db.execute(
        "SELECT problem, ordinal, body, tokens FROM events ORDER BY seq"
    ):
        rows.setdefault(id, []).append((ordinal, bytes(body), tokens))
        if ordinal is not None:
            failures.setdefault(id, set()).add(b'"finish":"failed"' in bytes(body))
    results = {r.problem_id: r for r in journal.results()}
    unsettled = {id for id, r in results.items() if r.status is Status.FAILED}
    unsettled |= {id for id, kinds in failures.items() if kinds == {True} and id not in results}
    return Contents(rows, results, frozenset(unsettled))


def require_kept(before: Contents, after: Contents) -> None:
    """Violation if an event that was there before is lost, changed or repeated."""
    for id, rows in before.rows.items():
        if id not in before.unsettled:
            now = list(after.rows.get(id, ()))
            if now[: len(rows)] != list(rows):
                raise Violation(f"{id}: of its events {len(rows)} were journalled, and not kept")


def require_sound(
    journal: Journal,
    explorer: Explorer,
    problems: Sequence[Problem],
    engine: Fake,
    tried_again: Collection[str] = (),
) -> None:
    """Violation if a trace is paired wrongly, or a result is not that of its events.

    Problems that were `tried_again` had failed before.
    """
    tasks = {name: model.task for name, model in explorer.plan.models.items()}
    pure = FakeEngine(replace(engine, seconds_per_token=0.0), tasks)
    known = {problem.id for problem in problems}
    if strangers := {*journal.problem_ids()} - known:
        raise Violation(f"the journal has problems that are none: {strangers}")
    for problem in problems:
        _require_sound(journal, explorer, problem, pure, tried_again)


def _require_sound(
    journal: Journal,
    explorer: Explorer,
    problem: Problem,
    pure: FakeEngine,
    tried_again: Collection[str],
) -> None:
    session = explorer.session(problem)
    session.start()
    result = journal.result(problem.id)
    # a problem that failed keeps that result until another try has come to its end
    is_current = (
        result is not None
        and result.fingerprint == explorer.fingerprint
        and (result.status is not Status.FAILED or problem.id not in tried_again)
    )
    for event in journal.events(problem.id):
        if isinstance(event, Stopped):
            session.stop(event.reason)
            continue
        assert isinstance(event, Arrived)
        request = session.running.get(event.trace.ordinal)
        if request is None:
            raise Violation(f"{problem.id}: trace {event.trace.ordinal} has no request")
        if fault := _fault(event.trace, request, pure):
            raise Violation(f"{problem.id}, trace {event.trace.ordinal}: {fault}")
        session.receive(event.trace)
    if result is not None and is_current:
        _require_result(session, explorer, result)


def _fault(trace: Trace, request: Request, pure: FakeEngine) -> str:
    """Return why a trace is not the one of its request, "" if it is."""
    for name in _ORIGIN:
        if getattr(trace, name) != getattr(request, name):
            return f"{name} is {getattr(trace, name)!r}, not {getattr(request, name)!r}"
    if trace.finish is Finish.FAILED:
        return "" if trace.error else "it failed without an error"
    expected = reply_of(pure, request)
    if trace.finish is Finish.CANCELLED:
        n = len(trace.token_ids)
        return "" if trace.token_ids == expected.token_ids[:n] else "its tokens are another's"
    for name in _CONTENT:
        one, other = getattr(trace, name), getattr(expected, name)
        if name == "usage":  # seconds of an engine that takes none are none
            one, other = replace(one, seconds=0.0), replace(other, seconds=0.0)
        if one != other:
            return f"{name} is {one!r:.200}, not {other!r:.200}"
    if trace.answer is not None and request.purpose in VOTING and not trace.answer.text:
        return "its answer is empty"
    return ""


def reply_of(pure: FakeEngine, request: Request) -> Trace:
    """Return what the engine replies to a request: it takes no time, so nothing is awaited."""
    try:
        pure.generate(request).send(None)
    except StopIteration as end:
        return validated(request, end.value)
    raise AssertionError("the engine takes time")


def _require_result(session: Session, explorer: Explorer, result: Result) -> None:
    id = result.problem_id
    if not session.done and not result.error:
        raise Violation(f"{id} has a result, and {sorted(session.running)} have not arrived")
    again = explorer.result(session, result.seconds)
    for name in ("status", "answer", "clusters", "usage", "stopped_by", "n_traces", "dropped"):
        one, other = getattr(result, name), getattr(again, name)
        if one != other:
            raise Violation(f"{id}: {name} is {one!r:.300}, by its events {other!r:.300}")
