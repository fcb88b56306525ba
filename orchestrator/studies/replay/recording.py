"""Recorded attempts as values, for replays.

The one rule: a recording provides what it contains and nothing else; a request for more is a
`ReplayError` that names it. References are stored beside the problem as the keys of right answers,
so that no strategy can see them. `orchestrator.studies.replay.files` reads the files.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.values import Answer, Finish, Problem, Verdict

_N_RESAMPLED = 1_000  # draws with replacement; more than any strategy takes per problem
Draw: TypeAlias = Literal["shuffled", "recorded", "resampled"]


class ReplayError(PlanError):
    """The recording does not contain what was requested."""


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """One whole attempt; `text` is None if it was not recorded.

    `probes` maps numbers of generated tokens to the answers of the probes made there.
    """

    n_tokens: int
    answer: Answer | None = None
    probes: dict[int, Answer | None] = field(default_factory=dict)
    text: str | None = None
    finish: Finish = Finish.STOP
    metrics: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    error: str = ""

    def probed(self, n_tokens: int) -> Answer | None:
        """Return the answer of the probe after `n_tokens` tokens; raises KeyError without one.

        After its last probe, a trace writes its final answer, so a probe would read that answer.
        """
        if n_tokens in self.probes:
            return self.probes[n_tokens]
        if n_tokens >= self.n_tokens or (self.probes and n_tokens > next(reversed(self.probes))):
            return self.answer
        raise KeyError(n_tokens)


@dataclass(frozen=True, slots=True)
class RecordedProblem:
    """A problem and its attempts, in the order of recording.

    `right` contains the keys of right answers, or is None without a reference.
    """

    problem: Problem
    traces: tuple[RecordedTrace, ...]
    right: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """A pool of problems, and notes for readers of figures computed from it.

    `unreadable` has the ids of problems with a reference that their domain cannot read.
    """

    name: str
    problems: tuple[RecordedProblem, ...]
    notes: tuple[str, ...] = ()
    unreadable: frozenset[str] = frozenset()

    def measurable(self) -> Recording:
        """Return the recording without the problems whose references cannot be read.

        Raises ReplayError when none is left.
        """
        problems = tuple(p for p in self.problems if p.problem.id not in self.unreadable)
        if self.unreadable and not problems:
            raise ReplayError(f"{self.name}: none of its references can be read; correct them")
        return replace(self, problems=problems)


def draw_order(n_traces: int, draw: Draw, seed: int) -> Sequence[int]:
    """Return the order in which a pool's traces are drawn, shape (n_traces,).

    `shuffled` is without replacement, by Python's own shuffle with this seed (as published with the
    recordings with probes). `resampled` is with replacement, of shape (1000,). `recorded` is the
    order of recording.
    """
    rng = random.Random(seed)
    order = list(range(n_traces))
    if draw == "shuffled":
        rng.shuffle(order)
    elif draw == "resampled":
        order = rng.choices(order, k=_N_RESAMPLED) if order else []
    return order
