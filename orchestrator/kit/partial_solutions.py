"""Solutions grown step by step and scored after each step: what beam search, diverse verifier trees
and particle filtering share.

A step ends at a delimiter, which stays in the text. A stem is a solution so far: a trace, its
continuations by token ids, and the scores a verifier gave to the whole text after each step. Stems
are values; nothing here decides which of them live.
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
    """A solution so far; without an ordinal it is the bare question.

    `scores`, of shape (n_steps,), are in [0, 1].
    """

    ordinal: int | None = None
    scores: tuple[float, ...] = ()
    done: bool = False  # it ended, was cut off, or states its answer

    def score(self, aggregate: Aggregate) -> float:
        """Return its scores as one; needs at least one step."""
        return AGGREGATES[aggregate](self.scores)


@dataclass(frozen=True, slots=True)
class StepSampler:
    """How a step is taken: the request that takes it (model, depth), where it ends, and who scores
    it.
    """

    request: Request
    verifier: str
    delimiter: str = "\n\n"

    def __call__(
        self, stems: Sequence[PartialSolution], last: bool = False
    ) -> Generator[Command, Reply, list[PartialSolution]]:
        """Return each stem one step on, in order, all steps taken side by side; with `last` they
        run to their end.

        A step that failed, was cancelled, or that the verifier could not score leaves no stem: it
        cannot be compared with others.
        """
        rules = () if last else (Delimiter(self.delimiter),)
        plain = changed(self.request, rules=rules, verifiers=(self.verifier,))
        ordinals = yield from submit([changed(plain, parent=stem.ordinal) for stem in stems])
        grown = []
        # fewer ordinals when a budget ends: waiting on ends the exploration
        for stem, ordinal in zip(stems, ordinals, strict=False):
            trace = yield from next_trace((ordinal,))
            given = [v.score for v in trace.verdicts if v.verifier == self.verifier]
            if given and trace.finish not in (Finish.FAILED, Finish.CANCELLED):
                grown.append(
                    PartialSolution(trace.ordinal, (*stem.scores, given[-1]), _done(trace))
                )
        if len(ordinals) < len(stems):
            yield from next_trace(())
        return grown


def _done(trace: Trace) -> bool:
    return trace.finish is not Finish.RULE or trace.answer is not None


def step_needs(depth: int | None) -> frozenset[Capability]:
    """Return what growing by steps takes of an engine: continuation, stop rules, and latent depth
    if one is asked for.
    """
    return depth_needs(depth) | {Capability.CONTINUE, Capability.RULES}


def check_steps(steps: int, delimiter: str) -> None:
    """Raise ValueError unless there is a step to take and a text that ends it."""
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least 1")
    if not delimiter:
        raise ValueError("delimiter = '': give the text that ends a step, such as a blank line")


def best(stems: Sequence[PartialSolution], n: int, aggregate: Aggregate) -> list[PartialSolution]:
    """Return the `n` best stems, best first; of equal ones the lower ordinal."""
    return sorted(stems, key=lambda s: (-s.score(aggregate), s.ordinal or 0))[:n]


def spread(stems: Sequence[PartialSolution], n: int) -> list[PartialSolution]:
    """Return `n` stems, each of the given ones as often as every other (the first ones once more
    where `n` does not divide).
    """
    return [stems[i % len(stems)] for i in range(n)]
