"""Recorded attempts as values, from which a replay plays.

The one rule: a recording yields what it holds and nothing else; a request for more is a
`ReplayError` that names it. References are kept beside the problem as the keys of right answers, so
that no strategy can see them. Files are read by `orchestrator.studies.replay.files`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.values import Answer, Finish, Problem, Verdict

_N_RESAMPLED = (
    1_000  # draws with replacement do not run out; more than any strategy takes of one problem
)
Draw: TypeAlias = Literal["shuffled", "recorded", "resampled"]


class ReplayError(PlanError):
    """The recording does not hold what was requested."""


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """One whole attempt; `text` None was not recorded.

    `probes` maps the tokens generated so far to the answer of the probe made there.
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
        """Return the answer of the probe after so many tokens; KeyError when there was none.

        Past its last probe a trace writes down its result: a probe would read its own answer.
        """
        if n_tokens in self.probes:
            return self.probes[n_tokens]
        if n_tokens >= self.n_tokens or (self.probes and n_tokens > next(reversed(self.probes))):
            return self.answer
        raise KeyError(n_tokens)


@dataclass(frozen=True, slots=True)
class RecordedProblem:
    """A problem and its attempts, in the order of recording.

    `right` holds the keys of right answers, None without a reference.
    """

    problem: Problem
    traces: tuple[RecordedTrace, ...]
    right: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """A pool of problems, and notes for whoever reads figures made of it."""

    name: str
    problems: tuple[RecordedProblem, ...]
    notes: tuple[str, ...] = ()


def draw_order(n_traces: int, draw: Draw, seed: int) -> Sequence[int]:
    """Return the order in which a pool's traces are drawn, shape (n_traces,).

    `shuffled` is without replacement, by Python's own shuffle of this seed (as the recordings with
    probes were published); `resampled` is with replacement, of shape (1000,); `recorded` is the
    order of recording.
    """
    rng = random.Random(seed)
    order = list(range(n_traces))
    if draw == "shuffled":
        rng.shuffle(order)
    elif draw == "resampled":
        order = rng.choices(order, k=_N_RESAMPLED) if order else []
    return order
