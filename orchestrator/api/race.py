"""The race of a problem's attempts: a lane for each, over the tokens that it generated.

The one rule: the notebook, the plot and `leadline show` draw these lanes, so they agree. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.values import Purpose, Result, Trace
from orchestrator.core.votes import AttemptState, AttemptTraces, attempts_in

PROBED, CHECKPOINT = "probed", "checkpoint"


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened in a lane after so many tokens: it was probed, or cut at a checkpoint."""

    tokens: int
    what: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One attempt; `ordinal` is that of its last trace, `heir` that of who got its vote."""

    ordinal: int
    state: AttemptState
    answer: str | None
    tokens: int
    marks: tuple[Mark, ...] = ()
    heir: int | None = None


def race(result: Result | None, traces: Sequence[Trace]) -> list[Lane]:
    """Return the lanes of a problem by ordinal; without a result, those so far."""
    clusters, dropped = (result.clusters, result.dropped) if result else ((), {})
    probed = {trace.parent for trace in traces if trace.purpose is Purpose.PROBE}
    return [
        _lane(
            attempt,
            probed,
            next((dropped[t.ordinal] for t in attempt.links if t.ordinal in dropped), None),
        )
        for attempt in attempts_in(traces, clusters, dropped)
    ]


def _lane(attempt: AttemptTraces, probed: set[int | None], heir: int | None) -> Lane:
    tokens, marks = 0, []
    for link in attempt.links:
        tokens += link.usage.output_tokens
        if link.ordinal in probed:
            marks.append(Mark(tokens, PROBED))
        if link is not attempt.end:
            marks.append(Mark(tokens, CHECKPOINT))
    answer = attempt.end.answer or attempt.voter.answer
    text = answer.text if answer else None
    return Lane(attempt.end.ordinal, attempt.state, text, tokens, tuple(marks), heir)
