"""Clusters of equivalent answers and weighted tallies, with the tie rule. Pure functions over a
pool of traces.

The tie rule, everywhere: larger weight, then larger count, then the lower lowest ordinal. A tie in
weight is reported by `tied`.

From a finished exploration to its Result: a pure function of the pool, so that a finished pool can
be voted on again another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from orchestrator.core.errors import described
from orchestrator.core.lineage import lineage, output_tokens
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

# what attempts at the problem are for; nothing else votes
VOTING = (Purpose.SOLVE, Purpose.AGGREGATE)
_CUT = (Finish.FAILED, Finish.CANCELLED)


def voters(traces: Iterable[Trace]) -> list[Trace]:
    """Return the traces that may vote, by ordinal: attempts at the problem that stated an answer.

    Probes, verdicts and judgements do not vote, nor do failed traces. A cancelled or truncated one
    votes if it stated an answer. A trace that was continued does not vote beside its continuation:
    its answer is the continuation's. A continuation that failed, or was cancelled before it stated
    one, takes nothing from it.
    """
    solving = [t for t in traces if t.purpose in VOTING]
    continued = {
        t.parent
        for t in solving
        if t.parent is not None and (t.answer is not None or t.finish not in _CUT)
    }
    chosen = (
        t
        for t in solving
        if t.answer is not None and t.finish is not Finish.FAILED and t.ordinal not in continued
    )
    return sorted(chosen, key=lambda t: t.ordinal)


def tally(
    traces: Iterable[Trace], weight: Callable[[Trace], float] = lambda trace: 1.0
) -> list[Cluster]:
    """Return the clusters of those traces that stated an answer, ranked by the tie rule; a
    cluster's weight is the sum of its traces'.

    The answer shown for a cluster is that of its lowest ordinal. Weights must be finite and not
    negative: ValueError otherwise.
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
                f"trace {trace.ordinal}: a vote's weight must be finite and not negative, not {one!r}"
            )
        total += one
    first = group[0].answer
    assert first is not None
    return Cluster(first, tuple(t.ordinal for t in group), total)


def rank(clusters: Iterable[Cluster]) -> list[Cluster]:
    """Return clusters best first, by the tie rule."""
    return sorted(clusters, key=lambda c: (-c.weight, -c.count, c.ordinals[0]))


def tied(clusters: Sequence[Cluster]) -> bool:
    """Tell whether the leader's weight is also the runner-up's."""
    return len(clusters) > 1 and clusters[0].weight == clusters[1].weight


def agreement(traces: Sequence[Trace]) -> float:
    """Return the share of these traces that state the leading answer; 0 without any.

    Traces that state none count against it.
    """
    return (
        max((cluster.count for cluster in tally(voters(traces))), default=0) / len(traces)
        if traces
        else 0.0
    )


def beta_confidence(n_first: int, n_second: int) -> float:
    """Return P[X > 1/2] for X ~ Beta(n_first + 1, n_second + 1): how sure it is that the leader
    leads. Exact for whole counts.

    Adaptive-Consistency's rule (Aggarwal et al., arXiv 2305.11860), for votes of one kind.
    """
    # The regularised incomplete beta function at 1/2 with whole parameters is a binomial tail.
    n = n_first + n_second + 1
    return sum(math.comb(n, k) for k in range(n_first + 1)) / (1 << n)


_NOTHING = Usage()


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

    A selector that raises, or every trace failing, makes it FAILED with the reason.
    """
    traces = pruned(traces, dropped)
    clusters: list[Cluster] = []
    try:
        ranked: list[object] = list(selector(traces))
        clusters = [c for c in ranked if isinstance(c, Cluster)]
        if len(clusters) < len(ranked):
            raise TypeError(f"a selector returns Clusters, not {ranked!r:.200}")
    except Exception as failure:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job goes on
        error = error or described(failure)
    n_failed = sum(t.finish is Finish.FAILED for t in traces)
    if traces and n_failed == len(traces):
        error = error or f"every trace failed; the last one: {traces[-1].error}"
    answer = clusters[0].answer if clusters and not error else None
    status = Status.FAILED if error else Status.ANSWERED if answer else Status.ABSTAINED
    mean = mean_tokens(traces)
    return Result(
        problem_id=problem.id,
        status=status,
        answer=answer,
        clusters=tuple(clusters),
        usage=usage_by_account(traces),
        n_traces=len(traces),
        n_attempts=sum(t.purpose is Purpose.SOLVE and t.parent is None for t in traces),
        n_failed=n_failed,
        n_cancelled=sum(t.finish is Finish.CANCELLED for t in traces),
        dropped=dict(dropped),
        tied=tied(clusters),
        stopped_by=stopped_by,
        n_planned=n_planned,
        full_tokens=None if n_planned is None or mean is None else n_planned * mean,
        seconds=seconds,
        fingerprint=fingerprint,
        error=error,
        tags=problem.tags,
    )


def pruned(traces: Sequence[Trace], dropped: Mapping[int, int | None]) -> Sequence[Trace]:
    """Return the pool in which dropped traces count as cancelled: without an answer, or with their
    heir's.

    A journal keeps traces as they came; whoever votes on a pool, now or later, votes on this. A
    failed trace stays failed.
    """
    if not dropped:
        return traces
    stated = {t.ordinal: t.answer for t in traces if t.finish is not Finish.FAILED}
    following = {
        t.parent: t.ordinal
        for t in traces
        if t.parent is not None and t.purpose is Purpose.SOLVE and stated.get(t.ordinal)
    }

    def left_by(ordinal: int | None) -> Answer | None:
        while ordinal in following:
            ordinal = following[ordinal]
        return None if ordinal is None else stated.get(ordinal)

    return [
        changed(t, finish=Finish.CANCELLED, answer=left_by(dropped[t.ordinal]))
        if t.ordinal in dropped and t.finish is not Finish.FAILED
        else t
        for t in traces
    ]


def usage_by_account(traces: Sequence[Trace]) -> Mapping[str, Usage]:
    """Return what was spent, by the account each trace is charged to; what models spent on
    verifying it is charged to `verify`.
    """
    groups: dict[str, list[Usage]] = {}
    for trace in traces:
        groups.setdefault(trace.account, []).append(trace.usage)
        if (verifying := trace.verifying) != _NOTHING:
            groups.setdefault(Purpose.VERIFY, []).append(verifying)
    return {account: _total(usages) for account, usages in groups.items()}


def _total(usages: Sequence[Usage]) -> Usage:
    return Usage(  # field by field, because adding Usage to Usage makes a new one per trace
        prompt_tokens=sum([u.prompt_tokens for u in usages]),
        cached_tokens=sum([u.cached_tokens for u in usages]),
        output_tokens=sum([u.output_tokens for u in usages]),
        layer_tokens=sum([u.layer_tokens for u in usages]),
        seconds=sum([u.seconds for u in usages]),
    )


def unended(traces: Iterable[Trace]) -> frozenset[int]:
    """Return the ordinals of traces with which no attempt ended: those gone on from, and those cut
    at a checkpoint.

    Such a cut is one by a stop rule, or one by length at which the attempt was probed. A last
    answer (AGGREGATE) goes on from its parent.
    """
    traces = list(traces)
    continued = {t.parent for t in traces if t.purpose in VOTING}
    probed = {t.parent for t in traces if t.purpose is Purpose.PROBE}
    cut = (
        t.ordinal
        for t in traces
        if t.finish is Finish.RULE or (t.finish is Finish.LENGTH and t.ordinal in probed)
    )
    return frozenset(cut) | {o for o in continued if o is not None}


def n_sampled(traces: Sequence[Trace]) -> int:
    """Return how many attempts came to their end, failed ones included: a chain of continuations is
    one.
    """
    unfinished = unended(traces)
    ends = [t for t in traces if t.purpose in VOTING and t.ordinal not in unfinished]
    return sum(t.finish is not Finish.CANCELLED for t in ends)


def mean_tokens(traces: Sequence[Trace]) -> float | None:
    """Return the mean output tokens of whole attempts (chains of continuations): neither cancelled
    nor cut on the way; None without any.

    It prices full sampling, and counts in what models spent on verifying them, because full
    sampling would be verified alike. Attempts cancelled at a stop are mostly the longer ones, so
    the price, and with it any saving, is understated rather than overstated.
    """
    by_ordinal = {t.ordinal: t for t in traces}
    unfinished = unended(traces)
    ends = (
        t
        for t in traces
        if t.purpose is Purpose.SOLVE and t.finish not in _CUT and t.ordinal not in unfinished
    )
    lengths = []
    for end in ends:
        links = lineage(end, by_ordinal)
        verifying = sum(t.verifying.output_tokens for t in links)
        lengths.append(output_tokens(links) + verifying)
    return sum(lengths) / len(lengths) if lengths else None
