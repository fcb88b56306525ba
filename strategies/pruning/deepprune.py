"""DeepPrune: traces are read to a prefix, clustered by a similarity as the prefixes arrive, and only one
cluster's traces finish.

Tu et al., arXiv 2510.08483 (ACL Findings 2026): prefixes of 25 reasoning words, greedy online
clustering (tau, K, K1), the largest cluster goes on with at most K2 traces, K3 random ones when all
clusters are single, majority vote of those that finished.

What the paper leaves open, and what we do: the reasoning words (`core.judging.REASONING_WORDS`);
which of a cluster's traces finish (the first to arrive); a newcomer like none when there are K
clusters (`when_full`); K3 (as K2); equal clusters (the one founded first). We differ in that the
largest cluster's traces go on as soon as no prefix still out can make another one the largest, and
what can no longer matter is stopped then, which changes no vote and saves tokens; and a prefix may
also end at `prefix_tokens`, for models that use few such words.

Online greedy clustering of traces by similarity, as DeepPrune does it (arXiv 2510.08483, section on
online pruning). Pure.

The rules alone: which cluster a newcomer goes to, and which cluster is the largest. Who compares,
and what follows, is a strategy's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from orchestrator.core.steps import Command, Reply, Steps, drop, next_trace, submit
from orchestrator.core.values import (
    Capability,
    Finish,
    Prefix,
    Problem,
    Purpose,
    Request,
    WordLimit,
)
from orchestrator.kit.prefixes import REASONING_WORDS, pair_scores

_GONE = (Finish.FAILED, Finish.CANCELLED)


@dataclass(frozen=True, slots=True)
class DeepPrune:
    """Reads `n` traces to a prefix, clusters them by a similarity, and lets only one cluster's finish.

    `keep` says who finishes: of the "largest" cluster as published, where nobody else votes; or of
    "every" cluster its first trace, which then also casts the votes of the members that were pruned
    for its sake.
    """

    parts: ClassVar[Mapping[str, str]] = {"similarity": "similarity"}
    former_options: ClassVar[Mapping[str, str]] = {"judge": "similarity"}

    n: int = 16  # traces; the paper has 512
    # who compares prefixes, with its options behind its name: "trained file=judge.json"
    similarity: Any = "probe"
    keep: Literal["largest", "every"] = "largest"
    n_words: int = 25  # a prefix ends at so many reasoning words; 0: not by words
    words: tuple[str, ...] = REASONING_WORDS
    prefix_tokens: int = 0  # a prefix ends at so many tokens, too; 0: not by tokens
    tau: float = 0.5  # a newcomer joins a cluster more similar than this
    max_clusters: int = 32  # K
    n_compared: int = 10  # K1: members of a cluster that a newcomer is compared with, at most
    n_finished: int = 20  # K2: traces of the largest cluster that finish, at most
    n_single: int = 20  # K3: traces that finish when no two prefixes are alike
    when_full: Literal["join", "leave"] = (
        "join"  # a newcomer unlike K clusters joins the nearest, or leaves without a vote
    )
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        least = {
            "n": 1,
            "n_words": 0,
            "prefix_tokens": 0,
            "max_clusters": 1,
            "n_compared": 1,
            "n_finished": 1,
            "n_single": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {bound} is needed")
        if not self.n_words and not self.prefix_tokens:
            raise ValueError(
                "n_words = 0 and prefix_tokens = 0: a prefix must end somewhere; set one of them"
            )
        if self.n_words and not all(self.words or ("",)):
            raise ValueError(
                f"words = {self.words!r}: give at least one word, none of them empty; or n_words = 0"
            )
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau = {self.tau}: 0 <= tau < 1 is needed")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do, for the similarity too."""
        own = {
            Capability.CONTINUE,
            *([Capability.RULES] if self.n_words else []),
            *([] if self.depth is None else [Capability.DEPTH]),
        }
        return frozenset(own) | getattr(self.similarity, "needs", frozenset())

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Read, cluster and finish; each prefix is placed when it arrives (when its probe does, for
        a similarity that probes).
        """
        rules = (WordLimit(self.words, self.n_words),) if self.n_words else ()
        request = Request(
            model=self.model, depth=self.depth, rules=rules, checkpoint=self.prefix_tokens or None
        )
        attempts = yield from submit([request] * self.n)
        state = _State(attempts, set(attempts))
        finish = self._finish_largest if self.keep == "largest" else self._finish_every
        while state.unread or state.probed:
            prefix = yield from self._next_prefix(state)
            if prefix is not None:
                yield from self._place(state, prefix, problem, rng)
            yield from finish(state, rng)
        while state.finishing:
            trace = yield from next_trace(state.finishing)
            state.finishing.discard(trace.ordinal)

    def _next_prefix(self, state: _State) -> Generator[Command, Reply, Prefix | None]:
        """Wait for a prefix, or for a probe of one; return the prefix when it can be compared."""
        trace = yield from next_trace(state.unread | state.probed.keys())
        if trace.ordinal in state.probed:
            prefix = state.probed.pop(trace.ordinal)
            return replace(prefix, key=trace.answer.key if trace.answer else None)
        state.unread.discard(trace.ordinal)
        if trace.finish in _GONE:
            return None
        prefix = Prefix(trace.ordinal, trace.text, trace.answer.key if trace.answer else None)
        if trace.finish is Finish.RULE:
            state.unfinished.add(trace.ordinal)
            probe: Request | None = getattr(self.similarity, "probe", None)
            if probe is not None and prefix.key is None:
                asked = yield from submit(
                    [replace(probe, parent=trace.ordinal, purpose=Purpose.PROBE)]
                )
                # none when the budget ended: then waiting ends the exploration
                state.probed.update(dict.fromkeys(asked, prefix))
                return None
        return prefix

    def _place(self, state: _State, prefix: Prefix, problem: Problem, rng: random.Random) -> Steps:
        """Put a prefix into its cluster, or into one of its own, or leave it out."""
        panels = [
            rng.sample(cluster, min(self.n_compared, len(cluster))) for cluster in state.clusters
        ]
        pairs = [(prefix, member) for panel in panels for member in panel]
        scores = iter((yield from pair_scores(self.similarity, problem, pairs)))
        similarities = [mean_similarity([next(scores) for _ in panel]) for panel in panels]
        place = home(similarities, self.tau, self.max_clusters, self.when_full)
        if place is None:
            yield from drop([prefix.ordinal])
        elif place < len(state.clusters):
            state.clusters[place].append(prefix)
        else:
            state.clusters.append([prefix])

    def _finish_largest(self, state: _State, rng: random.Random) -> Steps:
        """Let traces of the largest cluster go on once it is certain which it is, and stop all
        others once they cannot matter.
        """
        sizes = [len(cluster) for cluster in state.clusters]
        n_out = len(state.unread) + len(state.probed)
        first = leader(sizes, n_out)
        # one trace is no cluster yet: all may turn out to be single
        if first is None or (n_out and sizes[first] == 1):
            return
        chosen = state.clusters[first][: self.n_finished]
        if sizes[first] == 1:
            single = [cluster[0] for cluster in state.clusters]
            chosen = rng.sample(single, min(self.n_single, len(single)))
        yield from self._continue(state, chosen)
        if not n_out or len(chosen) == self.n_finished:
            kept = {prefix.ordinal for prefix in chosen}
            yield from drop([o for o in state.attempts if o not in kept] + sorted(state.probed))
            state.unread.clear()
            state.probed.clear()

    def _finish_every(self, state: _State, rng: random.Random) -> Steps:
        """Let each cluster's founder go on; other members that are not finished leave it their
        votes.
        """
        for founder, *members in state.clusters:
            yield from self._continue(state, [founder])
            pruned = [m.ordinal for m in members if m.ordinal in state.unfinished]
            state.unfinished.difference_update(pruned)
            if pruned:
                yield from drop(pruned, heir=founder.ordinal)

    def _continue(self, state: _State, prefixes: Sequence[Prefix]) -> Steps:
        ordinals = [p.ordinal for p in prefixes if p.ordinal in state.unfinished]
        state.unfinished.difference_update(ordinals)
        state.finishing.update(
            (yield from submit([Request(parent=ordinal) for ordinal in ordinals]))
            if ordinals
            else ()
        )


@dataclass(slots=True)
class _State:
    """Where one exploration stands; ordinals are those of prefixes, but for `finishing` and the
    keys of `probed`.
    """

    attempts: tuple[int, ...]
    unread: set[int]  # prefixes that have not arrived
    probed: dict[int, Prefix] = field(default_factory=dict)  # by the ordinal of the probe that runs
    unfinished: set[int] = field(default_factory=set)  # prefixes that were not continued
    clusters: list[list[Prefix]] = field(default_factory=list)
    finishing: set[int] = field(default_factory=set)  # continuations that run


def mean_similarity(scores: Sequence[float | None]) -> float:
    """Return the mean over the scores that the similarity could give; 0.0 with none of them: nothing
    speaks for the same answer then.
    """
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else 0.0


def home(
    similarities: Sequence[float],
    tau: float,
    max_clusters: int,
    when_full: Literal["join", "leave"],
) -> int | None:
    """Return the cluster that a newcomer goes to, or `len(similarities)` for one of its own; None
    when it stays outside.

    DeepPrune's online greedy rule: the most similar cluster (the oldest among equals) if that is
    above `tau`, else a new one while there are fewer than `max_clusters`. What happens then is
    unspecified there: `when_full` "join" takes the most similar one all the same.
    """
    n = len(similarities)
    nearest = max(range(n), key=lambda i: (similarities[i], -i), default=None)
    if nearest is not None and similarities[nearest] > tau:
        return nearest
    if n < max_clusters:
        return n
    return nearest if when_full == "join" else None


def leader(sizes: Sequence[int], n_outstanding: int = 0) -> int | None:
    """Return the largest cluster (the oldest among equals) once no `n_outstanding` newcomers can
    change which it is; None before.
    """
    if not sizes:
        return None
    first = max(range(len(sizes)), key=lambda i: (sizes[i], -i))
    # A younger cluster must be larger to win, an older one only as large; one not yet founded is
    # the youngest.
    rivals = [size + n_outstanding + (i < first) for i, size in enumerate(sizes) if i != first]
    return first if max([*rivals, n_outstanding]) <= sizes[first] else None
