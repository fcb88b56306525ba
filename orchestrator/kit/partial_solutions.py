"""Solutions that grow step by step and are scored after each step. Pure.

For beam search, diverse verifier trees, particle filtering and the like. A step ends at a
delimiter, which stays in the text:

    grow = StepSampler(Request(), verifier="prm")
    solutions = yield from grow([PartialSolution()] * n)        # one step on, each scored
    solutions = best(solutions, n // 4, "last")                 # which ones live is up to you

The one rule: a partial solution is a value. Which of them are continued is the strategy's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orchestrator.core.steps import Command, Reply, depth_needs, next_trace, submit
from orchestrator.core.values import Capability, Delimiter, Finish, Request, Trace, changed

Aggregate: TypeAlias = Literal["last", "min", "product", "mean"]
AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda scores: sum(scores) / len(scores),
}


@dataclass(frozen=True, slots=True)
class PartialSolution:
    """A solution so far: its last trace, and a verifier's scores of the whole text after each step.

    `scores`, of shape (n_steps,), are in [0, 1]. Without an `ordinal` it is the bare question.
    """

    ordinal: int | None = None
    scores: tuple[float, ...] = ()
    done: bool = False  # it ended, was cut off, or gives its answer

    def score(self, aggregate: Aggregate) -> float:
        """Return its scores as one number; it needs at least one step."""
        return AGGREGATES[aggregate](self.scores)


@dataclass(frozen=True, slots=True)
class StepSampler:
    """Takes a step: by `request` (model, depth), up to the delimiter, scored by `verifier`."""

    request: Request
    verifier: str
    delimiter: str = "\n\n"

    def __call__(
        self, stems: Sequence[PartialSolution], last: bool = False
    ) -> Generator[Command, Reply, list[PartialSolution]]:
        """Return each solution one step on, in order; with `last` they run to their end.

        All steps are taken side by side. A step that failed, was cancelled, or got no score leaves
        no solution: it cannot be compared with others.
        """
        rules = () if last else (Delimiter(self.delimiter),)
        plain = changed(self.request, rules=rules, verifiers=(self.verifier,))
        ordinals = yield from submit([changed(plain, parent=stem.ordinal) for stem in stems])
        grown = []
        # with fewer ordinals a budget has ended, and to wait then ends the exploration
        for stem, ordinal in zip(stems, ordinals, strict=False):
            trace = yield from next_trace((ordinal,))
            scores = [v.score for v in trace.verdicts if v.verifier == self.verifier]
            if scores and not trace.lost:
                grown.append(
                    PartialSolution(trace.ordinal, (*stem.scores, scores[-1]), _done(trace))
                )
        if len(ordinals) < len(stems):
            yield from next_trace(())
        return grown


def _done(trace: Trace) -> bool:
    return trace.finish is not Finish.RULE or trace.answer is not None


def step_needs(depth: int | None) -> frozenset[Capability]:
    """Return what steps take of an engine: CONTINUE and RULES, and DEPTH if a depth is given."""
    return depth_needs(depth) | {Capability.CONTINUE, Capability.RULES}


def best(stems: Sequence[PartialSolution], n: int, aggregate: Aggregate) -> list[PartialSolution]:
    """Return the `n` best solutions, best first; of equal ones the lower ordinal."""
    return sorted(stems, key=lambda s: (-s.score(aggregate), s.ordinal or 0))[:n]


def spread(stems: Sequence[PartialSolution], n: int) -> list[PartialSolution]:
    """Return `n` solutions in which each of the given ones occurs equally often.

    The first ones occur once more where `n` does not divide.
    """
    return [stems[i % len(stems)] for i in range(n)]
