"""One problem as a page shows it: question, classes of answers, race, groups, tree and texts.

The one rule: texts are whole; whoever stores a page may cut them (`texts`). Not covered: which
problems there are (`table`), and what a text looks like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.values import Cluster, Finish, Purpose, Trace, Usage, Verdict, changed
from orchestrator.core.votes import (
    VOTING,
    AttemptState,
    pruned,
    reselected,
    usage_by_account,
)
from orchestrator.jobs.finished import JobReader
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import Explorer
from orchestrator.kit.answers.thinking import parts_of
from orchestrator.kit.prompts import question
from orchestrator.report.page.race import GroupMember, Lane, Replay, VotePoint, lanes, replayed
from orchestrator.report.page.texts import Text
from orchestrator.report.scored import Attempt, ScoredProblem

_MOST_NODES = 600  # of a tree: more would not be seen
_SHORT = 160  # characters of a text that stands for a longer one


@dataclass(frozen=True, slots=True)
class AnswerClass:
    """A class of answers. `attempts` voted for it or hold it without a vote (`unused`)."""

    key: str
    text: str
    right: bool | None
    weight: float
    share: float
    attempts: tuple[int, ...]
    unused: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """What was recorded of each trace of an attempt, for a strip of cells as long as the trace."""

    tokens: tuple[int, ...]
    metrics: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, slots=True)
class AttemptPage:
    """One attempt. `common` is the number of characters that it shares with the first attempt of
    the leading answer, from its beginning; None for that attempt itself.
    """

    attempt: int
    state: str
    key: str | None
    answer: str | None
    right: bool | None
    finish: str
    model: str
    depth: int | None
    tokens: int
    thinking_tokens: int
    seconds: float
    thinking: Text
    reply: Text
    metrics: Mapping[str, float]
    verdicts: tuple[Verdict, ...]
    traces: tuple[int, ...]
    common: int | None
    strip: Strip | None
    error: str
    note: str


@dataclass(frozen=True, slots=True)
class OtherTrace:
    """A trace that belongs to no attempt, such as a probe or a verdict."""

    trace: int
    purpose: str
    about: tuple[int, ...]
    finish: str
    answer: str | None
    tokens: int
    text: Text
    error: str


@dataclass(frozen=True, slots=True)
class Group:
    """Traces that the strategy put together; `founder` is the first, `prefix` its text."""

    name: str
    founder: int
    prefix: Text
    members: tuple[GroupMember, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A trace in the tree of a search; `parents` are those that it continues or improves on.

    `note` is what the strategy noted of it, such as its rank.
    """

    trace: int
    parents: tuple[int, ...]
    score: float | None
    key: str | None
    answer: str | None
    finish: str
    tokens: int
    text: str
    group: str
    note: str


@dataclass(frozen=True, slots=True)
class WithoutDrops:
    """The vote if nothing had been dropped or cancelled.

    `assumed` has, by attempt, the last answer that was known of it: its own, or that of its last
    probe; `n_unknown` others had none, and no other attempt votes for them. `changed` tells whether
    the answer is another one.
    """

    answer: str | None
    right: bool | None
    changed: bool
    assumed: Mapping[int, str]
    n_unknown: int


@dataclass(frozen=True, slots=True)
class ProblemPage:
    """All that is shown of a problem."""

    id: str
    outcome: str
    question: Text
    domain: str
    reference: str | None
    accepted: tuple[str, ...]
    tags: str
    answer: str | None
    tied: bool
    stopped_by: str
    error: str
    note: str
    selector: str
    strategy: str
    usage: Mapping[str, Usage]
    seconds: float
    full_tokens: float | None
    classes: tuple[AnswerClass, ...]
    attempts: tuple[AttemptPage, ...]
    others: tuple[OtherTrace, ...]
    n_others: int
    lanes: tuple[Lane, ...]
    vote: tuple[VotePoint, ...]
    groups: tuple[Group, ...]
    tree: tuple[Node, ...]
    without_drops: WithoutDrops | None
    replay_note: str = ""
    n_left_out: int = 0  # characters of all texts


def problem_page(
    problem: ScoredProblem, reader: JobReader | Journal, explorer: Explorer
) -> ProblemPage:
    """Return a problem's page; its session receives the journal's events once more."""
    replay = _replay(problem, reader, explorer)
    result, pool = problem.result, problem.pool
    classes = _classes(problem)
    first = classes[0].attempts[0] if classes and classes[0].attempts else None
    leader = next((a.trace.text for a in problem.attempts if a.trace.ordinal == first), None)
    by_ordinal = {t.ordinal: t for t in pool}
    attempts = tuple(_attempt(a, leader, first, by_ordinal) for a in problem.attempts)
    members = {m.trace: name for name, group in replay.groups.items() for m in group}
    others = problem.others
    shown = tuple(_other(t) for t in others)
    return ProblemPage(
        id=problem.problem.id,
        outcome=problem.outcome.value,
        question=Text(question(problem.problem.prompt)),
        domain=problem.problem.domain,
        reference=problem.reference,
        accepted=problem.accepted,
        tags=result.tags if result else problem.problem.tags,
        answer=result.answer.text if result and result.answer else None,
        tied=problem.is_tied,
        stopped_by=result.stopped_by if result else "",
        error=result.error if result else "",
        note=problem.note,
        selector=explorer.plan.selector.name,
        strategy=explorer.plan.strategy.name,
        usage=result.usage if result else usage_by_account(pool),
        seconds=result.seconds if result else 0.0,
        full_tokens=result.full_tokens if result else None,
        classes=classes,
        attempts=attempts,
        others=shown,
        n_others=len(others),
        lanes=lanes([(a.trace.ordinal, a.traces) for a in problem.attempts], pool, replay),
        vote=replay.vote,
        groups=tuple(_groups(replay, by_ordinal)),
        tree=tuple(_tree(pool, members, replay.notes)),
        without_drops=without_drops(problem, explorer),
        replay_note=replay.note,
    )


def _replay(problem: ScoredProblem, reader: JobReader | Journal, explorer: Explorer) -> Replay:
    if not problem.pool:
        return Replay()
    session = explorer.session(problem.problem)
    return replayed(session, reader.events(problem.problem.id), explorer.selector)


def _classes(problem: ScoredProblem) -> tuple[AnswerClass, ...]:
    """Return the classes that have votes, best first, then those that only others hold."""
    clusters: Sequence[Cluster] = problem.result.clusters if problem.result else ()
    total = sum(c.weight for c in clusters)
    holders: dict[str, list[Attempt]] = {}
    for attempt in problem.attempts:
        if attempt.trace.answer is not None:
            holders.setdefault(attempt.trace.answer.key, []).append(attempt)
    rest = sorted(holders.keys() - {c.answer.key for c in clusters})
    rest.sort(key=lambda key: -len(holders[key]))
    votes = {c.answer.key: c for c in clusters}
    found = []
    for key in (*votes, *rest):
        cluster, held = votes.get(key), holders.get(key, [])
        voted = {a.trace.ordinal for a in held if a.state is AttemptState.VOTED}
        weight = cluster.weight if cluster else 0.0
        answer = cluster.answer if cluster else held[0].trace.answer
        assert answer is not None
        found.append(
            AnswerClass(
                key,
                answer.text,
                next((a.right for a in held if a.right is not None), None),
                weight,
                weight / total if total else 0.0,
                tuple(a.trace.ordinal for a in held if a.trace.ordinal in voted),
                tuple(a.trace.ordinal for a in held if a.trace.ordinal not in voted),
            )
        )
    return tuple(found)


def _attempt(
    attempt: Attempt,
    leader: str | None,
    first: int | None,
    by_ordinal: Mapping[int, Trace],
) -> AttemptPage:
    trace, parts = attempt.trace, parts_of(attempt.trace)
    is_leader = leader is None or trace.ordinal == first
    return AttemptPage(
        attempt=trace.ordinal,
        state=attempt.state.value,
        key=trace.answer.key if trace.answer else None,
        answer=trace.answer.text if trace.answer else None,
        right=attempt.right,
        finish=trace.finish.value,
        model=trace.model,
        depth=trace.depth,
        tokens=attempt.usage.output_tokens,
        thinking_tokens=attempt.usage.reasoning_tokens,
        seconds=attempt.usage.seconds,
        thinking=Text(parts.thinking_text),
        reply=Text(parts.reply_text),
        metrics=trace.metrics,
        verdicts=trace.verdicts,
        traces=attempt.traces,
        common=None if is_leader else _n_common(trace.text, leader or ""),
        strip=_strip([by_ordinal[o] for o in attempt.traces]),
        error=trace.error,
        note=trace.note,
    )


def _n_common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _strip(links: Sequence[Trace]) -> Strip | None:
    """Return the metrics and scores of an attempt's traces; None without any."""
    rows = [_measured(link) for link in links]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return None
    tokens = tuple(link.usage.output_tokens for link in links)
    return Strip(tokens, {name: tuple(row.get(name) for row in rows) for name in names})


def _measured(link: Trace) -> dict[str, float]:
    return {**link.metrics, **{v.verifier: v.score for v in link.verdicts}}


def _other(trace: Trace) -> OtherTrace:
    about = trace.subjects or (() if trace.parent is None else (trace.parent,))
    return OtherTrace(
        trace.ordinal,
        trace.purpose.value,
        about,
        trace.finish.value,
        trace.answer.text if trace.answer else None,
        trace.usage.output_tokens,
        Text(trace.text),
        trace.error,
    )


def _groups(replay: Replay, by_ordinal: Mapping[int, Trace]) -> Iterator[Group]:
    for name, members in replay.groups.items():
        founder = by_ordinal.get(members[0].trace)
        prefix = Text(founder.text if founder else "")
        yield Group(name, members[0].trace, prefix, members)


def _tree(
    pool: Sequence[Trace], groups: Mapping[int, str], notes: Mapping[int, str]
) -> Iterator[Node]:
    """Yield the nodes of a search, by ordinal; none where no attempt branches or builds on others.

    An attempt that merely runs in stretches is a chain, which its lane shows better.
    """
    solving = sorted((t for t in pool if t.purpose in VOTING), key=lambda t: t.ordinal)
    known = {t.ordinal for t in solving}
    continued = [t.parent for t in solving if t.parent is not None]
    if len(set(continued)) == len(continued) and not any(t.subjects for t in solving):
        return
    for trace in solving[:_MOST_NODES]:
        parents = (trace.parent,) if trace.parent is not None else trace.subjects
        scores = [v.score for v in trace.verdicts]
        yield Node(
            trace.ordinal,
            tuple(p for p in parents if p in known),
            scores[-1] if scores else None,
            trace.answer.key if trace.answer else None,
            trace.answer.text if trace.answer else None,
            trace.finish.value,
            trace.usage.output_tokens,
            trace.text[:_SHORT],
            groups.get(trace.ordinal, ""),
            notes.get(trace.ordinal, ""),
        )


def without_drops(problem: ScoredProblem, explorer: Explorer) -> WithoutDrops | None:
    """Return the vote with the dropped and cancelled attempts' last answers; None without any.

    A dropped attempt of which none is known votes as it did: not, or with another's answer.
    """
    lost = [
        a
        for a in problem.attempts
        if a.state in (AttemptState.DROPPED, AttemptState.CANCELLED) and a.traces
    ]
    if not lost or problem.result is None:
        return None
    probes = {t.parent: t for t in problem.pool if t.purpose is Purpose.PROBE and t.answer}
    assumed = {}
    for attempt in lost:
        probed = (probes[o].answer for o in reversed(attempt.traces) if o in probes)
        answer = attempt.trace.answer or next(probed, None)
        if answer is not None:
            assumed[attempt.trace.ordinal] = answer
    pool = [
        changed(t, answer=assumed[t.ordinal], finish=Finish.STOP) if t.ordinal in assumed else t
        for t in problem.pool
    ]
    known = {ordinal for a in lost if a.trace.ordinal in assumed for ordinal in a.traces}
    dropped = {o: heir for o, heir in problem.result.dropped.items() if o not in known}
    again = reselected(problem.result, pruned(pool, dropped), explorer.selector)
    before = problem.result.answer.key if problem.result.answer else None
    after = again.answer.key if again.answer else None
    known_right = {a.trace.answer.key: a.right for a in problem.attempts if a.trace.answer}
    return WithoutDrops(
        again.answer.text if again.answer else None,
        known_right.get(after) if after else None,
        before != after,
        {ordinal: answer.text for ordinal, answer in assumed.items()},
        sum(a.trace.ordinal not in assumed and dropped.get(a.trace.ordinal) is None for a in lost),
    )
