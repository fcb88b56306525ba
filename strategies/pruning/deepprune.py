"""DeepPrune: attempts run to a prefix, prefixes are clustered, one cluster's attempts finish.

Tu et al., arXiv 2510.08483 (ACL Findings 2026): prefixes of 25 reasoning words, greedy online
clustering (tau, K, K1); the largest cluster continues with at most K2 attempts, K3 random ones when
all clusters have one member; majority vote of those that finished.

Not specified in the paper, and chosen here: the reasoning words (`kit.prefixes.REASONING_WORDS`);
which of a cluster's attempts finish (the first to arrive); a prefix unlike all K clusters
(`when_full`); K3 (equal to K2); ties between clusters (the oldest). Where we differ: the largest
cluster's attempts continue as soon as no outstanding prefix can make another cluster the largest,
and attempts that can no longer matter are stopped then, which changes no vote and saves tokens. A
prefix may also end at `prefix_tokens`, for models that use few such words.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from orchestrator.core.steps import (
    Command,
    Reply,
    Steps,
    depth_needs,
    drop,
    next_trace,
    note,
    submit,
)
from orchestrator.core.values import (
    Capability,
    Finish,
    Prefix,
    Problem,
    Purpose,
    Request,
    WordLimit,
    changed,
)
from orchestrator.kit.options import AttemptOptions
from orchestrator.kit.prefixes import REASONING_WORDS, pair_scores


@dataclass(frozen=True, slots=True)
class DeepPrune(AttemptOptions):
    """Stops attempts that begin like others, as a similarity measures it."""

    parts: ClassVar[Mapping[str, str]] = {"similarity": "similarity"}
    former_options: ClassVar[Mapping[str, str]] = {"judge": "similarity"}

    similarity: Annotated[
        Any,
        Meta(
            description="Similarity that compares prefixes, by its name and options, such as "
            '"trained file=judge.json".'
        ),
    ] = "probe"
    keep: Annotated[
        Literal["largest", "every"],
        Meta(
            description='Attempts that finish: "largest" finishes those of the largest cluster and '
            'drops all others, as published; "every" finishes the first of each cluster, which '
            "also casts the votes of the stopped members."
        ),
    ] = "largest"
    n_words: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of reasoning words at which a prefix ends; 0 does not count words.",
        ),
    ] = 25
    words: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="The reasoning words, as whole words in any case."),
    ] = REASONING_WORDS
    prefix_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of tokens at which a prefix also ends; 0 does not count tokens.",
        ),
    ] = 0
    tau: Annotated[
        float,
        Meta(ge=0, lt=1, description="Similarity above which a prefix joins a cluster."),
    ] = 0.5
    max_clusters: Annotated[
        int, Meta(ge=1, description="Largest number of clusters (the paper's K).")
    ] = 32
    n_compared: Annotated[
        int,
        Meta(
            ge=1,
            description="Largest number of a cluster's members to which a prefix is compared (K1).",
        ),
    ] = 10
    n_finished: Annotated[
        int,
        Meta(
            ge=1, description="Largest number of the largest cluster's attempts that finish (K2)."
        ),
    ] = 20
    n_single: Annotated[
        int,
        Meta(ge=1, description="Number of attempts that finish when no two are alike (K3)."),
    ] = 20
    when_full: Annotated[
        Literal["join", "leave"],
        Meta(
            description="Treatment of a prefix unlike all of `max_clusters` clusters: it may "
            '"join" the nearest, or "leave" without a vote.'
        ),
    ] = "join"

    def __post_init__(self) -> None:
        if not self.n_words and not self.prefix_tokens:
            raise ValueError(
                "n_words = 0 and prefix_tokens = 0: a prefix must end somewhere; set one of them"
            )
        if self.n_words and not self.words:
            raise ValueError(f"words = {self.words!r}: give at least one word, or n_words = 0")

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, stop rules and latent depth if set, and the similarity's own needs."""
        rules = {Capability.RULES} if self.n_words else set()
        own = depth_needs(self.depth) | {Capability.CONTINUE} | rules
        return own | getattr(self.similarity, "needs", frozenset())

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample prefixes, cluster them and finish attempts.

        Each prefix is clustered when it arrives or, for a similarity that probes, when its probe
        arrives.
        """
        rules = (WordLimit(self.words, self.n_words),) if self.n_words else ()
        request = changed(self.request, rules=rules, checkpoint=self.prefix_tokens or None)
        attempts = yield from submit([request] * self.n)
        state = _PruningState(attempts, set(attempts))
        finish = self._finish_largest if self.keep == "largest" else self._finish_every
        while state.unread or state.probed:
            prefix = yield from self._next_prefix(state)
            if prefix is not None:
                yield from self._place(state, prefix, problem, rng)
            yield from finish(state, rng)
        while state.finishing:
            trace = yield from next_trace(state.finishing)
            state.finishing.discard(trace.ordinal)

    def _next_prefix(self, state: _PruningState) -> Generator[Command, Reply, Prefix | None]:
        """Wait for a prefix or for a prefix's probe; return the prefix once it can be compared."""
        trace = yield from next_trace(state.unread | state.probed.keys())
        if trace.ordinal in state.probed:
            prefix = state.probed.pop(trace.ordinal)
            return replace(prefix, key=trace.answer.key if trace.answer else None)
        state.unread.discard(trace.ordinal)
        if trace.lost:
            return None
        prefix = Prefix(trace.ordinal, trace.text, trace.answer.key if trace.answer else None)
        if trace.finish is Finish.RULE:
            state.unfinished.add(trace.ordinal)
            probe: Request | None = getattr(self.similarity, "probe", None)
            if probe is not None and prefix.key is None:
                probe = replace(probe, parent=trace.ordinal, purpose=Purpose.PROBE)
                # empty if the budget has ended: then waiting ends the exploration
                state.probed.update(dict.fromkeys((yield from submit([probe])), prefix))
                return None
        return prefix

    def _place(
        self, state: _PruningState, prefix: Prefix, problem: Problem, rng: random.Random
    ) -> Steps:
        """Put a prefix into its cluster or a new one, or leave it out."""
        panels = [
            rng.sample(cluster, min(self.n_compared, len(cluster))) for cluster in state.clusters
        ]
        pairs = [(prefix, member) for panel in panels for member in panel]
        scores = iter((yield from pair_scores(self.similarity, problem, pairs)))
        similarities = [mean_similarity([next(scores) for _ in panel]) for panel in panels]
        place = cluster_for(similarities, self.tau, self.max_clusters, self.when_full)
        if place is None:
            why = f"its prefix is unlike all of max_clusters = {self.max_clusters} clusters"
            yield from drop([prefix.ordinal], reason=why)
            return
        likeness = f"similarity {max(similarities):.2f} to the nearest" if similarities else "first"
        yield from note(prefix.ordinal, likeness, f"cluster {place + 1}")
        if place < len(state.clusters):
            state.clusters[place].append(prefix)
        else:
            state.clusters.append([prefix])

    def _finish_largest(self, state: _PruningState, rng: random.Random) -> Steps:
        """Continue the largest cluster once it is certain.

        The attempts of all other clusters are stopped once they can no longer matter.
        """
        sizes = [len(cluster) for cluster in state.clusters]
        n_out = len(state.unread) + len(state.probed)
        first = largest(sizes, n_out)
        # a single trace is not a cluster yet: all clusters may end up with one member
        if first is None or (n_out and sizes[first] == 1):
            return
        chosen = state.clusters[first][: self.n_finished]
        if sizes[first] == 1:
            single = [cluster[0] for cluster in state.clusters]
            chosen = rng.sample(single, min(self.n_single, len(single)))
        yield from self._continue(state, chosen)
        if not n_out or len(chosen) == self.n_finished:
            kept = {prefix.ordinal for prefix in chosen}
            others = [o for o in state.attempts if o not in kept] + sorted(state.probed)
            whose = "the largest cluster's" if sizes[first] > 1 else "the"
            yield from drop(others, reason=f"it is not among {whose} attempts that finish")
            state.unread.clear()
            state.probed.clear()

    def _finish_every(self, state: _PruningState, rng: random.Random) -> Steps:
        """Continue each cluster's first member; it inherits the votes of unfinished members."""
        for founder, *members in state.clusters:
            yield from self._continue(state, [founder])
            stopped = [m.ordinal for m in members if m.ordinal in state.unfinished]
            state.unfinished.difference_update(stopped)
            if stopped:
                why = "the attempt that founded its cluster answers for it"
                yield from drop(stopped, heir=founder.ordinal, reason=why)

    def _continue(self, state: _PruningState, prefixes: Sequence[Prefix]) -> Steps:
        ordinals = [p.ordinal for p in prefixes if p.ordinal in state.unfinished]
        state.unfinished.difference_update(ordinals)
        if ordinals:
            requests = [Request(parent=ordinal) for ordinal in ordinals]
            state.finishing.update((yield from submit(requests)))


@dataclass(slots=True)
class _PruningState:
    """The state of one exploration.

    Ordinals are those of prefixes, except in `finishing` and in the keys of `probed`.
    """

    attempts: tuple[int, ...]
    unread: set[int]  # prefixes that have not arrived
    probed: dict[int, Prefix] = field(default_factory=dict)  # by the ordinal of the running probe
    unfinished: set[int] = field(default_factory=set)  # prefixes that were not continued
    clusters: list[list[Prefix]] = field(default_factory=list)
    finishing: set[int] = field(default_factory=set)  # running continuations


def mean_similarity(scores: Sequence[float | None]) -> float:
    """Return the mean of the scores that are not None; 0.0 if all are None.

    Without any score there is no evidence for the same answer.
    """
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else 0.0


def cluster_for(
    similarities: Sequence[float],
    tau: float,
    max_clusters: int,
    when_full: Literal["join", "leave"],
) -> int | None:
    """Return the cluster of a new prefix, `len(similarities)` for a new cluster, or None.

    DeepPrune's online greedy rule: the most similar cluster (the oldest among equals) if that is
    above `tau`, else a new one while there are fewer than `max_clusters`. The paper does not
    specify what happens otherwise: with `when_full` "join" it is still the most similar cluster.
    """
    n = len(similarities)
    nearest = max(range(n), key=lambda i: (similarities[i], -i), default=None)
    if nearest is not None and similarities[nearest] > tau:
        return nearest
    if n < max_clusters:
        return n
    return nearest if when_full == "join" else None


def largest(sizes: Sequence[int], n_outstanding: int = 0) -> int | None:
    """Return the largest cluster, the oldest among equals; None while that may still change.

    It may change while `n_outstanding` new prefixes could make another cluster the largest.
    """
    if not sizes:
        return None
    first = max(range(len(sizes)), key=lambda i: (sizes[i], -i))
    # A newer cluster must be larger to win, an older one only as large; a cluster not yet created
    # is the newest.
    rivals = [size + n_outstanding + (i < first) for i, size in enumerate(sizes) if i != first]
    return first if max([*rivals, n_outstanding]) <= sizes[first] else None
