"""The race of a problem's attempts: a lane for each over tokens, and the vote on the same axis.

The axis is the critical path: tokens generated one after another. A request begins where the trace
ended whose arrival made the strategy start it, as its session shows when it receives the journal's
events again. The one rule: what happened to an attempt, where and by which rule is what the
session says; without a session that can be replayed, lanes have no such marks. Pure, but for the
plugins that the session runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.core.errors import JournalError
from orchestrator.core.protocols import Selector
from orchestrator.core.session import Session, Start
from orchestrator.core.values import Finish, Purpose, Trace
from orchestrator.core.votes import VOTING, beta_confidence, pruned
from orchestrator.jobs.journal import Arrived, Stopped
from orchestrator.jobs.sessions import request_of

_N_POINTS = 64  # of the vote: more would not be seen
_WEIGHING = frozenset({Purpose.VERIFY, Purpose.COMPARE})  # verdicts, by which a selector may weigh


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened to an attempt, at a place on the axis, after `token` of its own.

    `kind` is probe, group, verify, compare, forced, dropped, cancelled, failed or answer. `answer`
    is the text of an answer that came with it.
    """

    kind: str
    at: int
    token: int
    text: str = ""
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One trace of an attempt, from and to its places on the axis."""

    trace: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Lane:
    """An attempt, by the ordinal of its last trace; its marks are in order."""

    attempt: int
    segments: tuple[Segment, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class VotePoint:
    """The vote after a trace: the weights of answers by key, and how certain the leader is.

    `certainty` is the posterior probability that the first answer is more frequent than the second
    (`core.votes.beta_confidence`, over counts).
    """

    at: int
    weights: Mapping[str, float]
    certainty: float


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A trace in a group that the strategy formed, and what it noted."""

    trace: int
    text: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What a problem's session did: where its requests began and ended, and why they ended.

    `reasons` and `notes` are by ordinal, `dropped` and `groups` as the strategy formed them. `note`
    says why the session could not be replayed to its end; "" if it was.
    """

    starts: Mapping[int, int] = field(default_factory=dict)
    ends: Mapping[int, int] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    dropped: Mapping[int, int | None] = field(default_factory=dict)
    groups: Mapping[str, tuple[GroupMember, ...]] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    vote: tuple[VotePoint, ...] = ()
    note: str = ""


def replayed(session: Session, events: Iterable[Arrived | Stopped], selector: Selector) -> Replay:
    """Return what a new session does as it receives a problem's journalled events."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    votes = _Votes(session, selector)
    note, now = "", 0
    effects = session.start()
    try:
        for event in events:
            starts.update({e.request.ordinal: now for e in effects if isinstance(e, Start)})
            if isinstance(event, Stopped):
                effects = session.stop(event.reason)
                continue
            trace = event.trace
            request_of(session, trace)
            now = ends[trace.ordinal] = starts.get(trace.ordinal, 0) + trace.usage.output_tokens
            effects = session.receive(trace)
            votes.add(now, trace)
    except JournalError as error:
        note = f"what the strategy did is unknown: {error}"
    groups: dict[str, tuple[GroupMember, ...]] = {}
    for one in session.notes:
        if one.group:
            member = GroupMember(one.ordinal, one.text)
            groups[one.group] = (*groups.get(one.group, ()), member)
    notes = {one.ordinal: one.text for one in session.notes}
    reasons, dropped = session.reasons, session.dropped
    return Replay(starts, ends, reasons, dropped, groups, notes, votes.points(), note)


class _Votes:
    """The votes of a growing pool, taken again when a voter or a verdict on one arrives."""

    def __init__(self, session: Session, selector: Selector) -> None:
        self._session, self._selector = session, selector
        # the place, and how many traces had arrived and had been dropped
        self._moments: list[tuple[int, int, int]] = []
        self._at = 0

    def add(self, now: int, trace: Trace) -> None:
        self._at = max(self._at, now)
        is_voter = trace.purpose in VOTING and trace.answer is not None
        if is_voter or trace.purpose in _WEIGHING:
            n_dropped = len(self._session.dropped)
            self._moments.append((self._at, len(self._session.traces), n_dropped))

    def points(self) -> tuple[VotePoint, ...]:
        n = len(self._moments)
        step = max(1, -(-n // _N_POINTS))
        chosen = [one for i, one in enumerate(self._moments, 1) if i % step == 0 or i == n]
        pool, dropped = list(self._session.traces.values()), list(self._session.dropped.items())
        points = (self._point(at, pool[:n], dict(dropped[:k])) for at, n, k in chosen)
        return tuple(point for point in points if point is not None)

    def _point(
        self, at: int, pool: list[Trace], dropped: dict[int, int | None]
    ) -> VotePoint | None:
        try:
            clusters = self._selector(pruned(pool, dropped))
        except Exception:  # noqa: BLE001 - a plugin may raise anything; it need not know partial pools
            return None
        if not clusters:  # so far the selector knows too little of each attempt
            return None
        counts = sorted((c.count for c in clusters), reverse=True)
        first, second = (*counts, 0, 0)[:2]
        weights = {c.answer.key: c.weight for c in clusters}
        return VotePoint(at, weights, beta_confidence(first, second))


def lanes(
    attempts: Sequence[tuple[int, Sequence[int]]], pool: Sequence[Trace], replay: Replay
) -> tuple[Lane, ...]:
    """Return the lane of each attempt, given as its last ordinal and the ordinals of its traces."""
    by_ordinal = {t.ordinal: t for t in pool}
    about = _by_subject(pool, by_ordinal)
    notes = {m.trace: (name, m.text) for name, ms in replay.groups.items() for m in ms}
    names = {trace: end for end, traces in attempts for trace in traces}
    return tuple(
        Lane(end, *_drawn([by_ordinal[o] for o in traces], about, notes, replay, names))
        for end, traces in attempts
    )


def _by_subject(
    pool: Sequence[Trace], by_ordinal: Mapping[int, Trace]
) -> Mapping[int, list[Trace]]:
    """Return the traces that probe, verify or compare each trace."""
    about: dict[int, list[Trace]] = {}
    for trace in pool:
        if trace.purpose in VOTING:
            continue
        subjects = trace.subjects or (() if trace.parent is None else (trace.parent,))
        for subject in subjects:
            if subject in by_ordinal:
                about.setdefault(subject, []).append(trace)
    return about


def _drawn(
    links: Sequence[Trace],
    about: Mapping[int, Sequence[Trace]],
    notes: Mapping[int, tuple[str, str]],
    replay: Replay,
    names: Mapping[int, int],
) -> tuple[tuple[Segment, ...], tuple[Mark, ...]]:
    segments: list[Segment] = []
    marks: list[Mark] = []
    at = token = 0
    for link in links:
        start = max(at, replay.starts.get(link.ordinal, at))
        token += link.usage.output_tokens
        at = start + link.usage.output_tokens
        segments.append(Segment(link.ordinal, start, at))
        marks += _marks_on(link, at, token, about.get(link.ordinal, ()))
        if link.ordinal in notes:
            marks.append(Mark("group", at, token, ": ".join(filter(None, notes[link.ordinal]))))
    return tuple(segments), (*marks, *_ending(links, at, token, replay, names))


def _marks_on(link: Trace, at: int, token: int, others: Sequence[Trace]) -> Iterator[Mark]:
    for other in others:
        kind = other.purpose.value
        yield Mark(kind, at, token, _outcome(other), other.answer.text if other.answer else None)
    if link.purpose is Purpose.AGGREGATE and link.parent is not None:
        yield Mark("forced", at, token, "a final answer was requested")


def _outcome(trace: Trace) -> str:
    values = ", ".join(f"{v:.3g}" for v in trace.values)
    return trace.error or values or f"trace {trace.ordinal}, {trace.finish.value}"


def _ending(
    links: Sequence[Trace], at: int, token: int, replay: Replay, names: Mapping[int, int]
) -> Iterator[Mark]:
    """Yield what ended an attempt: its drop, its cancellation or failure, or its answer."""
    end = links[-1]
    dropped = [link.ordinal for link in links if link.ordinal in replay.dropped]
    if end.finish is Finish.FAILED:
        yield Mark("failed", at, token, end.error)
    elif dropped:
        heir = replay.dropped[dropped[-1]]
        votes = f"; it votes with attempt {names.get(heir, heir)}" if heir is not None else ""
        reason = replay.reasons.get(dropped[-1]) or "the strategy gave no reason"
        yield Mark("dropped", at, token, reason + votes, end.answer.text if end.answer else None)
    elif end.finish is Finish.CANCELLED:
        reason = replay.reasons.get(end.ordinal) or end.note or "the strategy gave no reason"
        yield Mark("cancelled", at, token, reason)
    elif end.answer is not None:
        yield Mark("answer", at, token, end.finish.value, end.answer.text)
