"""What a job takes over from its journal: under another plan, and for another try at a problem.

A job grows when its plan changes in a way that all it has paid for remains of use: a larger n,
another selector, another budget. The one rule: a finished trace is taken over only as the trace of
the very request that it was generated for. Both plans are replayed to compare requests, before
anything is written. The journal is then as if the new plan had recorded it, and the job continues
like any other. Not covered: generating what is missing (`orchestrator.runtime.driver`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.metrics import recorded_with
from orchestrator.core.plan import Plan, differences, document, fingerprint
from orchestrator.core.session import Effect, Session
from orchestrator.core.values import Finish, Problem, Request, Trace, changed
from orchestrator.jobs.journal import Arrived, Concluded, Event, Journal, Opened, Stopped, digest
from orchestrator.jobs.sessions import Explorer, load_explorer, request_of

Step: TypeAlias = Callable[[Callable[[], list[Effect]]], object]
Recorded: TypeAlias = Arrived | Stopped

# why a key cannot change once there are traces; all others can, where their requests remain
_FIXED: Mapping[str, str] = {
    "answers_in_thinking": "answers were read by it",
    "default_model": "the other pool writes other texts",
    "domain": "answers were read by it",
    "domains": "answers were read by it",
    "few_shot": "every prompt has the examples",
    "models": "another model writes other texts",
    "sampling": "every text depends on it",
    "seed": "every text depends on it",
    "verifiers": "traces were verified when they arrived",
}
_N_SHOWN = 40  # characters of a value in an error


@dataclass(frozen=True, slots=True)
class Growth:
    """What changed in a job's plan, as in `differences`, and how many traces were taken over.

    `last` has, for some problems, how many of their last events end the exploration while requests
    of the new plan have not even been sent. These events arrive once more, when they have been.
    """

    changes: tuple[str, ...]
    n_traces: int
    last: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    """A journalled event; of a trace, its request, and whether its strategy still waited for it."""

    event: Recorded
    request: Request | None = None
    awaited: bool = False


def grow(journal: Journal, plan: Plan, problems: Iterable[Problem]) -> Growth | None:
    """Bring the problems that were begun under another plan to this one; None if there are none.

    A problem that is complete with what it has gets its new result; another keeps its former one
    until then. PlanError, before anything is written, when the plans differ in what traces depend
    on, or when a finished trace would be of no use.
    """
    groups = _by_former_plan(journal, plan, problems)
    formers = {former: _stored_plan(journal, former) for former in groups}
    changes = tuple(dict.fromkeys(c for old in formers.values() for c in plan_changes(old, plan)))
    for old in formers.values():
        if fault := _fixed(old, plan):
            raise PlanError(f"{journal.path.parent} {fault}")
    explorer = load_explorer(plan)
    takeovers = _Takeovers()
    for former, group in groups.items():
        before = load_explorer(formers[former])
        for problem in group:
            recorded = list(journal.events(problem.id))
            takeovers.add(explorer, _grown(recorded, problem, before, explorer))
    if takeovers.refusals:
        raise PlanError(f"{journal.path.parent} {_loss(changes, takeovers)}")
    journal.append(takeovers.events, replacing=takeovers.replaced)
    return Growth(changes, takeovers.n_traces, takeovers.last) if groups else None


def forget_failures(
    journal: Journal,
    old: Session,
    new: Session,
    step: Step,
    verified: Mapping[int, Trace] = MappingProxyType({}),
) -> None:
    """Remove the failed traces of a problem, its stops and what rests on them from the journal.

    `old` and `new` are fresh sessions of the problem. What remains are the completed traces of
    requests that are submitted without the failed ones too; those `verified`, by ordinal, with the
    verdicts that they lacked. `step` calls a step of a strategy.
    """
    recorded = list(journal.events(old.problem.id))

    def renewed(record: _Record) -> _Record:
        trace = verified.get(record.request.ordinal) if record.request else None
        if trace is None or not isinstance(record.event, Arrived):
            return record
        return replace(record, event=replace(record.event, trace=trace))

    records = map(renewed, _records(recorded, old, step))
    kept, *_ = _take_over(records, new, _is_usable, step)
    if kept != recorded:
        journal.append(kept, replacing=[old.problem.id])


def awaited(
    events: Iterable[Recorded], session: Session, step: Step
) -> Iterator[tuple[Request, Trace]]:
    """Yield the traces that a strategy waited for, with their requests; `session` is a fresh one.

    `step` calls a step of the strategy.
    """
    for record in _records(events, session, step):
        if record.request is not None and record.awaited:
            yield record.request, record.event.trace  # type: ignore[union-attr]  # only a stop has no request


def _is_usable(record: _Record) -> bool:
    return isinstance(record.event, Arrived) and record.event.trace.finish is not Finish.FAILED


def _by_former_plan(
    journal: Journal, plan: Plan, problems: Iterable[Problem]
) -> dict[str, list[Problem]]:
    """Return the problems that were begun under other plans, by the fingerprints of these.

    The job's own last plan is among them, even without a problem, if it is another.
    """
    mine, last = fingerprint(plan), journal.meta("fingerprint") or ""
    groups: dict[str, list[Problem]] = {} if last == mine else {last: []}
    began = journal.plans(mine)
    for problem in problems:
        former = began.get(problem.id, mine)
        if former != mine:
            groups.setdefault(former, []).append(problem)
    return groups


def _stored_plan(journal: Journal, former: str) -> Plan:
    text = journal.meta(f"plan {former}") or journal.meta("plan") or "{}"
    return msgspec.convert(msgspec.json.decode(text), Plan)


def plan_changes(old: Plan, new: Plan) -> list[str]:
    """Return one line for each key that decides answers and has another value."""
    documents = (msgspec.json.decode(msgspec.json.encode(document(plan))) for plan in (old, new))
    return differences(*documents)


def _fixed(old: Plan, new: Plan) -> str:
    """Return why no trace of one plan is of use to another; "" if there is no such reason."""
    added = {name: model for name, model in new.models.items() if name not in old.models}
    grown = replace(
        old,
        models={**old.models, **added},
        strategy=new.strategy,
        selector=new.selector,
        budget=new.budget,
    )
    lines = [f"{c} ({_FIXED[re.split(r'[.:]', c)[0]]})" for c in plan_changes(grown, new)]
    if not lines and not plan_changes(old, new):
        lines = ["the meaning of plans changed, with the version of Leadline"]
    if not lines:
        return ""
    why = "was begun with another plan, whose traces are of no use to this one:"
    return "\n  ".join([why, *lines])


@dataclass(slots=True)
class _Takeover:
    """What a problem takes over: `events` are what its new session received, in that order."""

    new: Session
    recorded: Sequence[Recorded]
    events: list[Recorded]
    n_last: int = 0  # as in `Growth.last`
    refusal: str = ""


@dataclass(slots=True)
class _Takeovers:
    """What is written of all problems, and the refusals of some; sessions are not kept."""

    events: list[Event] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    n_problems: int = 0
    n_traces: int = 0

    def add(self, explorer: Explorer, one: _Takeover) -> None:
        """Add a problem: its plan, its events if they changed, and its result if it is complete."""
        problem = one.new.problem
        self.n_problems += 1
        self.n_traces += len(one.new.traces)
        self.events.append(Opened(problem.id, digest(problem), explorer.fingerprint))
        if one.refusal:
            self.refusals.append(f"in {problem.id!r} first: {one.refusal}")
        if one.n_last:
            self.last[problem.id] = one.n_last
        if one.events != one.recorded:
            self.replaced.append(problem.id)
            self.events += one.events
        if one.new.done:
            self.events.append(Concluded(explorer.result(one.new, _elapsed(one.events))))


def _grown(
    recorded: Sequence[Recorded], problem: Problem, before: Explorer, now: Explorer
) -> _Takeover:
    old, new = before.session(problem), now.session(problem)
    seconds, seconds_before = now.plan.budget.seconds, before.plan.budget.seconds
    is_shorter = bool(seconds) and not 0 < seconds_before <= seconds

    def is_within(record: _Record) -> bool:
        elapsed = record.event.elapsed
        if isinstance(record.event, Stopped):  # a longer time lifts it
            return bool(seconds) and elapsed >= seconds
        return not (is_shorter and record.awaited and elapsed > seconds)

    records = _records(recorded, old, _call)
    events, n_before_end, rest = _take_over(records, new, is_within, _call)
    lost = [r for r in rest if isinstance(r.event, Arrived) and not r.event.trace.lost]
    if lost:
        return _Takeover(new, recorded, events, refusal=_reason(lost[0], new))
    is_cut_off = not new.exploring and any(r.ordinal not in old.running for r in new.lost())
    return _Takeover(new, recorded, events, len(events) - n_before_end if is_cut_off else 0)


def _elapsed(events: Iterable[Recorded]) -> float:
    return max((event.elapsed for event in events), default=0.0)


def _call(step: Callable[[], list[Effect]]) -> object:
    return step()


def _take_over(
    records: Iterable[_Record],
    new: Session,
    is_wanted: Callable[[_Record], bool],
    step: Step,
) -> tuple[list[Recorded], int, list[_Record]]:
    """Replay events in `new`, each as soon as it fits; return those in that order, and the others.

    Between them: how many came before the one that ended the exploration. Of several that fit, the
    first to have arrived comes first.
    """
    n_before_end = 0
    taken: list[Recorded] = []
    waiting: list[_Record] = []
    others: list[_Record] = []
    step(new.start)
    for record in records:
        (waiting if is_wanted(record) else others).append(record)
        while (ready := next((r for r in waiting if _fits(r, new)), None)) is not None:
            waiting.remove(ready)
            n_before_end = len(taken) if new.exploring else n_before_end
            taken.append(ready.event)
            step(partial(_deliver, new, ready.event))
    return taken, n_before_end, [*others, *waiting]


def _records(recorded: Iterable[Recorded], old: Session, step: Step) -> Iterator[_Record]:
    """Yield events with their requests while `old` replays them as they are."""
    step(old.start)
    for event in recorded:
        if isinstance(event, Stopped):
            yield _Record(event)
        else:
            request = request_of(old, event.trace)
            yield _Record(event, request, _awaits(old, request))
        step(partial(_deliver, old, event))


def _deliver(session: Session, event: Recorded) -> list[Effect]:
    if isinstance(event, Stopped):
        return session.stop(event.reason)
    return session.receive(event.trace)


def _awaits(session: Session, request: Request) -> bool:
    return session.exploring and not session.is_cancelled(request.ordinal)


def _fits(record: _Record, session: Session) -> bool:
    """Tell whether a session may receive an event now as if it had just arrived."""
    if record.request is None:
        return True
    request = session.running.get(record.request.ordinal)
    if request is None or _differences(record, request):
        return False
    trace = record.event.trace  # type: ignore[union-attr]  # only a stop has no request
    if trace.finish is Finish.CANCELLED:
        return session.is_cancelled(request.ordinal)
    return _awaits(session, request) or not record.awaited


def _differences(record: _Record, new: Request) -> list[str]:
    """Return the fields in which a trace is none of `new`: more metrics do no harm."""
    old = record.request
    assert old is not None
    wanted = changed(new, metrics=old.metrics) if {*new.metrics} <= _metrics(record) else new
    if old == wanted:
        return []
    names = (one.name for one in fields(old))
    return [name for name in names if getattr(old, name) != getattr(wanted, name)]


def _metrics(record: _Record) -> set[str]:
    """Return the metrics that were recorded of a trace, or would have been if it had tokens."""
    assert record.request is not None
    trace = record.event.trace  # type: ignore[union-attr]  # only a stop has no request
    names = record.request.metrics
    return {*names, *(trace.metrics or recorded_with(names))}


def _loss(changes: Sequence[str], takeovers: _Takeovers) -> str:
    n = len(takeovers.refusals)
    loss = (
        f"In {n:,} of {takeovers.n_problems:,} problems this would lose finished traces, "
        f"{takeovers.refusals[0]}"
    )
    return "\n  ".join(["cannot continue with the changed plan:", *changes]) + f"\n{loss}"


def _reason(record: _Record, session: Session) -> str:
    """Return why a session has no use for a finished trace."""
    assert record.request is not None
    ordinal = record.request.ordinal
    request = session.running.get(ordinal)
    if request is None:
        after = "" if session.exploring else f", it ends after {session.n_submitted}"
        return f"the new plan makes no request {ordinal} for trace {ordinal}{after}"
    if not (names := _differences(record, request)):
        return f"the new plan would have stopped before trace {ordinal} was finished"
    if names == ["metrics"]:
        missing = ", ".join(sorted({*request.metrics} - _metrics(record)))
        return f"trace {ordinal} was recorded without {missing}, which the new plan needs"
    values = (
        f"{name}: {_short(record.request, name)} -> {_short(request, name)}" for name in names
    )
    return f"trace {ordinal} was generated for another request ({', '.join(values)})"


def _short(request: Request, name: str) -> str:
    text = repr(getattr(request, name))
    return text if len(text) <= _N_SHOWN else f"{text[: _N_SHOWN - 3]}..."
