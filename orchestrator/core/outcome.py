"""From a finished exploration to its Result: a pure function of the pool, so that a finished pool can be voted on again another way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from orchestrator.core.protocols import Selector
from orchestrator.core.session import described
from orchestrator.core.types import Answer, Cluster, Finish, Problem, Purpose, Result, Status, Trace, Usage, changed
from orchestrator.core.votes import VOTING, tied

_NOTHING = Usage()


def conclude(
    problem: Problem,
    traces: Sequence[Trace],
    selector: Selector,
    *,
    n_full: int | None = None,
    stopped_by: str = "",
    error: str = "",
    seconds: float = 0.0,
    fingerprint: str = "",
    dropped: Mapping[int, int | None] = MappingProxyType({}),
) -> Result:
    """Return the problem's result. A selector that raises, or every trace failing, makes it FAILED with the reason."""
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
        n_full=n_full,
        full_tokens=None if n_full is None or mean is None else n_full * mean,
        seconds=seconds,
        fingerprint=fingerprint,
        error=error,
        tags=problem.tags,
    )


def pruned(traces: Sequence[Trace], dropped: Mapping[int, int | None]) -> Sequence[Trace]:
    """Return the pool in which dropped traces count as cancelled: without an answer, or with their heir's.

    A journal keeps traces as they came; whoever votes on a pool, now or later, votes on this. A failed trace stays failed.
    """
    if not dropped:
        return traces
    stated = {t.ordinal: t.answer for t in traces if t.finish is not Finish.FAILED}
    following = {t.parent: t.ordinal for t in traces if t.parent is not None and t.purpose is Purpose.SOLVE and stated.get(t.ordinal)}

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
    """Return what was spent, by the account each trace is charged to; what models spent on verifying it is charged to `verify`."""
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
    """Return the ordinals of traces with which no attempt ended: those gone on from, and those cut at a checkpoint.

    Such a cut is one by a stop rule, or one by length at which the attempt was probed. A last answer (AGGREGATE) goes on from its parent.
    """
    traces = list(traces)
    continued = {t.parent for t in traces if t.purpose in VOTING}
    probed = {t.parent for t in traces if t.purpose is Purpose.PROBE}
    cut = (t.ordinal for t in traces if t.finish is Finish.RULE or (t.finish is Finish.LENGTH and t.ordinal in probed))
    return frozenset(cut) | {o for o in continued if o is not None}


def n_sampled(traces: Sequence[Trace]) -> int:
    """Return how many attempts came to their end, failed ones included: a chain of continuations is one."""
    unfinished = unended(traces)
    ends = [t for t in traces if t.purpose in VOTING and t.ordinal not in unfinished]
    return sum(t.finish is not Finish.CANCELLED for t in ends)


def mean_tokens(traces: Sequence[Trace]) -> float | None:
    """Return the mean output tokens of whole attempts (chains of continuations): neither cancelled nor cut on the way; None without any.

    It prices full sampling, and counts in what models spent on verifying them, because full sampling would be verified alike. Attempts
    cancelled at a stop are mostly the longer ones, so the price, and with it any saving, is understated rather than overstated.
    """
    by_ordinal = {t.ordinal: t for t in traces}
    unfinished = unended(traces)
    lengths = []
    for trace in traces:
        ended = trace.finish not in (Finish.CANCELLED, Finish.FAILED) and trace.ordinal not in unfinished
        if trace.purpose is Purpose.SOLVE and ended:
            link: Trace | None = trace
            total = 0
            while link is not None:
                total += link.usage.output_tokens + link.verifying.output_tokens
                link = None if link.parent is None else by_ordinal.get(link.parent)
            lengths.append(total)
    return sum(lengths) / len(lengths) if lengths else None
