"""Who votes, how votes are counted, what became of each attempt, and a problem's Result. Pure.

The tie rule, everywhere: larger weight, then larger count, then the lower lowest ordinal. A tie in
weight is reported by `tied`. A Result is a function of the finished pool, so another selector can
vote on the same pool again. Selectors decide how much a vote weighs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from orchestrator.core.errors import describe
from orchestrator.core.lineage import lineage
from orchestrator.core.protocols import Selector
from orchestrator.core.values import (
    Answer,
    Cluster,
    Finish,
    Problem,
    Purpose,
    Result,
    Status,
    Trace,
    Usage,
    changed,
)
from orchestrator.core.values.records import NO_USAGE

# the purposes of attempts at the problem; nothing else votes
VOTING = (Purpose.SOLVE, Purpose.AGGREGATE)


class AttemptState(StrEnum):
    """What became of an attempt."""

    __hash__ = str.__hash__  # as in `core.values.Finish`
    VOTED = "voted"
    # it has an answer and no vote: the selector gave it none, or the problem is still open
    UNUSED = "unused"
    ABSTAINED = "abstained"  # it came to its end without an answer
    CUT_OFF = "cut off"  # by max_new_tokens or the context's end, before it gave an answer
    STOPPED = "stopped"  # by a stop rule or at a checkpoint, before it gave an answer
    CANCELLED = "cancelled"
    DROPPED = "dropped"  # its strategy took its vote away
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AttemptTraces:
    """One attempt: its traces in order of generation, the one that votes for it, and its state.

    A continuation that was lost leaves the vote to the trace that it continues.
    """

    links: Sequence[Trace]
    voter: Trace
    state: AttemptState

    @property
    def end(self) -> Trace:
        """The last trace."""
        return self.links[-1]


def voters(traces: Iterable[Trace]) -> list[Trace]:
    """Return the traces that may vote, by ordinal: attempts at the problem that have an answer.

    Probes, verdicts and failed traces do not vote. A cancelled or truncated trace votes if it has
    an answer. A trace that was continued does not vote in addition to its continuation; but if the
    continuation failed, or was cancelled without an answer, the trace keeps its vote.
    """
    solving = [t for t in traces if t.purpose in VOTING]
    continued = {
        t.parent for t in solving if t.parent is not None and (t.answer is not None or not t.lost)
    }
    chosen = (
        t
        for t in solving
        if t.answer is not None and t.finish is not Finish.FAILED and t.ordinal not in continued
    )
    return sorted(chosen, key=lambda t: t.ordinal)


def attempts_in(
    traces: Sequence[Trace],
    clusters: Iterable[Cluster] = (),
    dropped: Mapping[int, int | None] = MappingProxyType({}),
) -> Iterator[AttemptTraces]:
    """Yield the attempts in a pool of traces as they arrived, by the ordinal of their last trace.

    `clusters` and `dropped` are those of the problem's result.
    """
    by_ordinal = {trace.ordinal: trace for trace in traces}
    continued = {trace.parent for trace in traces if trace.purpose in VOTING}
    votes = {ordinal for cluster in clusters for ordinal in cluster.ordinals}
    for end in sorted(traces, key=lambda trace: trace.ordinal):
        if end.purpose not in VOTING or end.ordinal in continued:
            continue
        links = lineage(end, by_ordinal) if end.parent is not None else [end]
        voter = end
        if len(links) > 1:
            voter = next((link for link in reversed(links) if link.ordinal in votes), end)
        is_dropped = dropped and any(link.ordinal in dropped for link in links)
        if is_dropped and end.finish is not Finish.FAILED:
            yield AttemptTraces(links, voter, AttemptState.DROPPED)
        elif voter.ordinal in votes:
            yield AttemptTraces(links, voter, AttemptState.VOTED)
        else:
            yield AttemptTraces(links, voter, state_without_vote(end))


def state_without_vote(end: Trace) -> AttemptState:
    """Return the state of an attempt that has no vote, or none yet, by its last trace."""
    if end.finish is Finish.FAILED:
        return AttemptState.FAILED
    if end.finish is Finish.CANCELLED:
        return AttemptState.CANCELLED
    if end.answer is not None:
        return AttemptState.UNUSED
    return _SILENT[end.finish]


_SILENT = {
    Finish.STOP: AttemptState.ABSTAINED,
    Finish.LENGTH: AttemptState.CUT_OFF,
    Finish.RULE: AttemptState.STOPPED,
}


def tally(
    traces: Iterable[Trace], weight: Callable[[Trace], float] = lambda trace: 1.0
) -> list[Cluster]:
    """Return the clusters of the traces that have an answer, ranked by the tie rule.

    A cluster's weight is the sum of its traces' weights; its answer is that of its lowest ordinal.
    ValueError unless all weights are finite and not negative.
    """
    members: dict[str, list[Trace]] = {}
    for trace in sorted(traces, key=lambda t: t.ordinal):
        if trace.answer is not None:
            members.setdefault(trace.answer.key, []).append(trace)
    return rank(_cluster(group, weight) for group in members.values())


def _cluster(group: Sequence[Trace], weight: Callable[[Trace], float]) -> Cluster:
    total = 0.0
    for trace in group:
        one = weight(trace)
        if not 0.0 <= one < float("inf"):  # false for nan too
            raise ValueError(
                f"trace {trace.ordinal}: a vote's weight must be finite and not negative, "
                f"not {one!r}"
            )
        total += one
    first = group[0].answer
    assert first is not None
    return Cluster(first, tuple(t.ordinal for t in group), total)


def rank(clusters: Iterable[Cluster]) -> list[Cluster]:
    """Return clusters best first, by the tie rule."""
    return sorted(clusters, key=lambda c: (-c.weight, -c.count, c.ordinals[0]))


def tied(clusters: Sequence[Cluster]) -> bool:
    """Tell whether the leader and the runner-up have the same weight."""
    return len(clusters) > 1 and clusters[0].weight == clusters[1].weight


def scattered(clusters: Sequence[Cluster]) -> bool:
    """Tell whether three or more attempts voted and no two of them gave the same answer."""
    return len(clusters) > 2 and all(cluster.count == 1 for cluster in clusters)


def agreement(traces: Sequence[Trace]) -> float:
    """Return the share of these traces that have the leading answer; 0.0 without traces.

    Traces without an answer lower the share.
    """
    return (
        max((cluster.count for cluster in tally(voters(traces))), default=0) / len(traces)
        if traces
        else 0.0
    )


def beta_confidence(n_first: int, n_second: int) -> float:
    """Return P[X > 1/2] for X ~ Beta(n_first + 1, n_second + 1): how certain the lead is.

    Exact for whole counts. This is the rule of Adaptive-Consistency (Aggarwal et al., arXiv
    2305.11860) for votes of one kind.
    """
    # The regularised incomplete beta function at 1/2 with whole parameters is a binomial tail.
    n = n_first + n_second + 1
    return sum(math.comb(n, k) for k in range(n_first + 1)) / (1 << n)


def conclude(
    problem: Problem,
    traces: Sequence[Trace],
    selector: Selector,
    *,
    n_planned: int | None = None,
    stopped_by: str = "",
    error: str = "",
    seconds: float = 0.0,
    fingerprint: str = "",
    dropped: Mapping[int, int | None] = MappingProxyType({}),
) -> Result:
    """Return the problem's result.

    Its status is FAILED, with the reason, when the selector raises or every trace failed.
    """
    traces = pruned(traces, dropped)
    finishes = [t.finish for t in traces]
    result = Result(
        problem_id=problem.id,
        status=Status.ABSTAINED,
        usage=usage_by_account(traces),
        n_traces=len(traces),
        n_attempts=len([t for t in traces if t.purpose is Purpose.SOLVE and t.parent is None]),
        n_failed=finishes.count(Finish.FAILED),
        n_cancelled=len(
            [t for t in traces if t.finish is Finish.CANCELLED and t.ordinal not in dropped]
        ),
        dropped=dict(dropped),
        stopped_by=stopped_by,
        n_planned=n_planned,
        seconds=seconds,
        fingerprint=fingerprint,
        tags=problem.tags,
    )
    result = reselected(result, traces, selector, error)
    mean = mean_tokens(traces)
    if n_planned is None or mean is None:
        return result
    # full sampling would have lost the attempts that failed, too: they saved nothing
    n_lost = min(result.attempts.get(AttemptState.FAILED, 0), n_planned)
    return changed(result, full_tokens=mean * (n_planned - n_lost))


def reselected(
    result: Result, traces: Sequence[Trace], selector: Selector, error: str = ""
) -> Result:
    """Return a result with the answer that a selector finds in its pool, at unchanged cost.

    Only the pool decides: a problem that failed is answered if its pool contains an answer, unless
    `error` is not "".
    """
    clusters: list[Cluster] = []
    try:
        ranked: list[object] = list(selector(traces))
        clusters = [c for c in ranked if isinstance(c, Cluster)]
        if len(clusters) < len(ranked):
            raise TypeError(f"a selector must return Clusters, not {ranked!r:.200}")
    except Exception as failure:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job continues
        error = error or describe(failure)
    if traces and all(t.finish is Finish.FAILED for t in traces):
        error = error or f"every trace failed; the last one: {traces[-1].error}"
    answer = clusters[0].answer if clusters and not error else None
    return changed(
        result,
        status=Status.FAILED if error else Status.ANSWERED if answer else Status.ABSTAINED,
        answer=answer,
        clusters=tuple(clusters),
        attempts=Counter(a.state for a in attempts_in(traces, clusters, result.dropped)),
        tied=tied(clusters),
        error=error,
    )


def pruned(traces: Sequence[Trace], dropped: Mapping[int, int | None]) -> Sequence[Trace]:
    """Return the pool in which dropped traces count as cancelled.

    A dropped trace has no answer, or that of its heir; a failed trace stays failed. A journal
    stores traces as they arrived, so every vote on a pool, now or later, uses this function.
    """
    if not dropped:
        return traces
    answers = {t.ordinal: t.answer for t in traces if t.finish is not Finish.FAILED}
    following = {
        t.parent: t.ordinal
        for t in traces
        if t.parent is not None and t.purpose is Purpose.SOLVE and answers.get(t.ordinal)
    }

    def left_by(ordinal: int | None) -> Answer | None:
        while ordinal in following:
            ordinal = following[ordinal]
        return None if ordinal is None else answers.get(ordinal)

    return [
        changed(t, finish=Finish.CANCELLED, answer=left_by(dropped[t.ordinal]))
        if t.ordinal in dropped and t.finish is not Finish.FAILED
        else t
        for t in traces
    ]


def usage_by_account(traces: Sequence[Trace]) -> Mapping[str, Usage]:
    """Return the cost by account.

    The cost of verifying a trace with models is charged to `verify`.
    """
    groups = defaultdict[str, list[Usage]](list)
    for trace in traces:
        groups[trace.account].append(trace.usage)
        verifying = trace.verification_usage
        if verifying is not NO_USAGE and verifying != NO_USAGE:
            groups[Purpose.VERIFY].append(verifying)
    return {account: total_usage(usages) for account, usages in groups.items()}


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the sum of several usages."""
    return Usage(  # field by field, because adding Usage to Usage makes a new one per trace
        prompt_tokens=sum([u.prompt_tokens for u in usages]),
        cached_tokens=sum([u.cached_tokens for u in usages]),
        output_tokens=sum([u.output_tokens for u in usages]),
        layer_tokens=sum([u.layer_tokens for u in usages]),
        seconds=sum([u.seconds for u in usages]),
        reasoning_tokens=sum([u.reasoning_tokens for u in usages]),
        draft_layer_tokens=sum([u.draft_layer_tokens for u in usages]),
    )


def intermediate(traces: Iterable[Trace]) -> frozenset[int]:
    """Return the ordinals of traces that are not the last one of their attempt.

    Those are the traces that were continued, and those that were cut at a checkpoint: by a stop
    rule, or by length if the attempt was then probed. A final answer (AGGREGATE) counts as a
    continuation of its parent.
    """
    traces = list(traces)
    continued = {t.parent for t in traces if t.purpose in VOTING}
    probed = {t.parent for t in traces if t.purpose is Purpose.PROBE}
    cut = [
        t.ordinal
        for t in traces
        if t.finish is Finish.RULE or (t.finish is Finish.LENGTH and t.ordinal in probed)
    ]
    return frozenset(cut) | {o for o in continued if o is not None}


def attempt_ends(traces: Sequence[Trace]) -> list[Trace]:
    """Return the last trace of each attempt that ended, failed attempts included."""
    unfinished = intermediate(traces)
    return [
        t
        for t in traces
        if t.purpose in VOTING and t.finish is not Finish.CANCELLED and t.ordinal not in unfinished
    ]


def n_sampled(traces: Sequence[Trace]) -> int:
    """Return how many attempts ended, failed attempts included."""
    return len(attempt_ends(traces))


def mean_tokens(traces: Sequence[Trace]) -> float | None:
    """Return the mean output tokens of the attempts that ended; None without any.

    This is the price of full sampling, so it includes the cost of verifying them with models.
    Cancelled attempts are mostly the longer ones, so the price, and with it any savings, is
    underestimated rather than overestimated.
    """
    by_ordinal = {t.ordinal: t for t in traces}
    lengths = [
        sum([_all_output_tokens(link) for link in lineage(end, by_ordinal)])
        if end.parent is not None
        else _all_output_tokens(end)
        for end in attempt_ends(traces)
        if end.purpose is Purpose.SOLVE and end.finish is not Finish.FAILED
    ]
    return sum(lengths) / len(lengths) if lengths else None


def _all_output_tokens(trace: Trace) -> int:
    return trace.usage.output_tokens + trace.verification_usage.output_tokens
