"""Selectors: pure functions from a pool of traces to ranked clusters of answers. Ties everywhere by
`core.votes`.

A score is named by `by`: a metric ("mean_confidence", "tail_confidence@1024", ...;
log-probabilities count as probabilities, exp(mean_logprob)) or "verdict:NAME", the score of that
verifier. A voter without the score asked for never gets a default: without a metric it is an error,
without a verdict it is left out (`scored`).

Which attempts go beyond which: revisions, aggregations, and what a larger model said where smaller
ones disagreed. Pure.

An attempt (`purpose` SOLVE or AGGREGATE) whose request had `subjects` builds on those traces or
takes their place. Its generation is one more than the latest of theirs; an attempt without subjects
is of generation 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import VOTING, rank, tally, voters
from orchestrator.kit.verdicts import opinions


@dataclass(frozen=True, slots=True)
class Majority:
    """Plurality vote: one trace, one vote."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by count."""
        return tally(voters(traces))


@dataclass(frozen=True, slots=True)
class Final:
    """Votes among the last generation alone: the last revisions, the last population, the last
    model asked (`core.generations`).

    How it votes is another selector's: by plurality unless `vote` names one.
    """

    parts: ClassVar[Mapping[str, str]] = {"vote": "selectors"}

    vote: Any = None  # "best by=verdict:prm"; without one: plurality

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return the clusters of the last generation that states an answer."""
        last = latest(traces)
        if self.vote is None:
            return tally(last)
        silent = {t.ordinal for t in voters(traces)} - {t.ordinal for t in last}
        ranked: list[Cluster] = self.vote([t for t in traces if t.ordinal not in silent])
        return ranked


@dataclass(frozen=True, slots=True)
class Weighted:
    """Each trace votes with its score."""

    by: str = "mean_confidence"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric it votes by, if it is one."""
        return _metric(self.by)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return _verifier(self.by)

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed score."""
        return tally(scored(traces, self.by), lambda trace: score(trace, self.by))


@dataclass(frozen=True, slots=True)
class Best:
    """Best of n: the answer of the trace with the highest score."""

    by: str = "mean_confidence"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric it compares by, if it is one."""
        return _metric(self.by)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return _verifier(self.by)

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by their best trace's score, which is their weight."""
        return rank(
            replace(c, weight=max(scores))
            for c, scores in _scored(scored(traces, self.by), self.by)
        )


@dataclass(frozen=True, slots=True)
class BestWeighted:
    """Weighted best of n (Li et al., arXiv 2206.02336): clusters by summed score, each shown by its
    best trace's wording.
    """

    by: str = "mean_confidence"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric it votes by, if it is one."""
        return _metric(self.by)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return _verifier(self.by)

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed score."""
        pool = scored(traces, self.by)
        by_ordinal = {t.ordinal: t for t in pool}
        clusters = []
        for cluster, scores in _scored(pool, self.by):
            best = by_ordinal[cluster.ordinals[scores.index(max(scores))]]
            assert best.answer is not None
            clusters.append(replace(cluster, answer=best.answer, weight=sum(scores)))
        return rank(clusters)


@dataclass(frozen=True, slots=True)
class Filtered:
    """DeepConf offline (arXiv 2508.15260, section 3.2): keep the `keep` most confident share of
    traces, then vote by confidence.

    `keep` is the paper's eta: 0.1 is its aggressive, 0.9 its conservative setting. The threshold is
    the (1 - keep) percentile with linear interpolation, and traces at it are kept, as in the
    released code.
    """

    by: str = "bottom10_confidence"
    keep: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep = {self.keep}: a share, 0 < keep <= 1")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric it filters by, if it is one."""
        return _metric(self.by)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return _verifier(self.by)

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return the clusters of the traces kept, by summed score."""
        pool = scored(traces, self.by)
        if not pool:
            return []
        scores = {t.ordinal: score(t, self.by) for t in pool}
        threshold = float(np.percentile(list(scores.values()), 100 * (1 - self.keep)))
        # of 101 scores 0 to 100 the 56th percentile comes out as 56.00000000000001: keep the trace
        # at it
        threshold *= 1 - 1e-12
        kept = [t for t in pool if scores[t.ordinal] >= threshold]
        return tally(kept, lambda trace: scores[trace.ordinal])


@dataclass(frozen=True, slots=True)
class Pessimistic:
    """Pessimistic verification (Shi and Jin, Heimdall, arXiv 2504.10337): the answer with the
    highest lower bound of its verdicts.

    Largest r(a) - alpha ln(T) / (n_a + 1): r(a) the mean and n_a the number of verdicts on traces
    that state a, T the number of all. In the paper T is N M and n_a is N_a M; counting verdicts
    says the same, and still holds where candidates were judged unequally often. alpha 0 is the best
    mean, a large alpha is the majority vote. A cluster's weight is that bound plus alpha ln(T): not
    negative, same order, and 0 for an answer without a verdict.

    `by` "judges" reads the pool's judges (`core.verdicts`), "verdict:NAME" a verifier's verdicts on
    each trace.
    """

    by: str = "judges"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha = {self.alpha}: at least 0 and finite")
        if self.by != "judges" and not self.by.startswith("verdict:"):
            raise ValueError(f"by = {self.by!r}: 'judges' or 'verdict:NAME'")

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return _verifier(self.by)

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by their bound."""
        pool = voters(traces)
        on = (
            opinions(traces)
            if self.by == "judges"
            else {t.ordinal: [score(t, self.by)] for t in scored(traces, self.by)}
        )
        clusters = tally(pool)
        scores = [[s for o in c.ordinals for s in on.get(o, ())] for c in clusters]
        width = self.alpha * math.log(max(1, sum(map(len, scores))))
        return rank(
            replace(c, weight=_bound(given, width))
            for c, given in zip(clusters, scores, strict=True)
        )


def _bound(given: Sequence[float], width: float) -> float:
    n = len(given)
    # -width/(n + 1) and width added: r - ... + alpha ln(T)
    return sum(given) / n + width * n / (n + 1) if given else 0.0


def scored(traces: Sequence[Trace], by: str) -> list[Trace]:
    """Return the voters that can be ranked by a score: all of them by a metric, by a verdict those
    that have one, unless none has.

    A judge may fail at one attempt (a note on its trace says why), and then the others are
    compared. What nobody has is an error, which `score` raises.
    """
    pool = voters(traces)
    if not by.startswith("verdict:"):
        return pool
    name = by.removeprefix("verdict:")
    return [t for t in pool if any(v.verifier == name for v in t.verdicts)] or pool


def score(trace: Trace, by: str) -> float:
    """Return a trace's score; ValueError naming the trace when it does not carry it, or one that is
    negative or not finite.
    """
    if by.startswith("verdict:"):
        name = by.removeprefix("verdict:")
        found = [v.score for v in trace.verdicts if v.verifier == name]
    else:
        found = [trace.metrics[by]] if by in trace.metrics else []
    if not found:
        raise ValueError(f"trace {trace.ordinal} carries no {by!r}, by which the selector ranks")
    value = math.exp(found[-1]) if by.endswith("_logprob") else found[-1]
    if not 0.0 <= value < math.inf:  # false for nan too
        raise ValueError(
            f"trace {trace.ordinal} carries {by} = {value!r}; a score to rank by must be finite and not negative"
        )
    return value


def _metric(by: str) -> tuple[str, ...]:
    return () if by.startswith("verdict:") else (by,)


def _verifier(by: str) -> tuple[str, ...]:
    return (by.removeprefix("verdict:"),) if by.startswith("verdict:") else ()


def _scored(pool: Sequence[Trace], by: str) -> list[tuple[Cluster, list[float]]]:
    scores = {t.ordinal: score(t, by) for t in pool}
    return [(cluster, [scores[o] for o in cluster.ordinals]) for cluster in tally(pool)]


def generations(traces: Sequence[Trace]) -> dict[int, int]:
    """Return the generation of each attempt, by ordinal.

    Subjects always precede, so one pass by ordinal is enough.
    """
    found: dict[int, int] = {}
    for trace in sorted(traces, key=lambda t: t.ordinal):
        if trace.purpose in VOTING:
            found[trace.ordinal] = max((found.get(s, 0) + 1 for s in trace.subjects), default=0)
    return found


def latest(traces: Sequence[Trace]) -> list[Trace]:
    """Return the voters of the last generation that has any, by ordinal."""
    of = generations(traces)
    pool = voters(traces)
    last = max((of[t.ordinal] for t in pool), default=0)
    return [t for t in pool if of[t.ordinal] == last]
