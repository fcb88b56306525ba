"""The events of a running job, and the protocol of sinks, which receive them.

The one rule: an event is a frozen value with numbers, names and answers, never a prompt or a
completion. So a queue of events stays small, and a sink cannot publish a text by accident. Times
are seconds since 1970.

    @orchestrator.sink("counter")
    @dataclass(frozen=True, slots=True)
    class Counter:
        path: str = "count.txt"

        @contextmanager
        def open(self, run):
            n = 0
            def receive(events):
                nonlocal n
                n += sum(isinstance(event, ProblemFinished) for event in events)
            yield receive
            Path(self.path).write_text(f"{run.name}: {n} problems")

A sink may also declare, as class variables:

- `events: tuple[type, ...]`: the kinds of event that it wants; all, if it does not.
- `packages: Mapping[str, str]`: the modules that it imports, each with what to install for it. A
  plan with a sink that lacks one of them is refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec

from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, Purpose, Result, Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A job begins or continues.

    `job_id` is the same in every run of one job directory, so that a sink can continue what it
    began. `n_done` problems had their result before.
    """

    job_id: str
    name: str
    directory: str
    plan: Plan
    fingerprint: str
    n_problems: int
    n_done: int
    time: float


# One for each trace: a struct is made in 0.14 µs, a frozen dataclass of as many fields in 1.3.
class TraceFinished(msgspec.Struct, frozen=True, gc=False):
    """A completion has arrived and is durable: an attempt, a part of one, a probe or a verdict.

    `dropped_by` names the rule that ended it early, as far as that is known now: a stop rule, a
    budget or the strategy. A strategy may also drop a trace later (`ProblemFinished.dropped`).
    `usage.seconds` is the engine's time.
    """

    problem_id: str
    ordinal: int
    purpose: Purpose
    finish: Finish
    model: str
    depth: int | None
    parent: int | None
    usage: Usage
    has_answer: bool
    dropped_by: str
    time: float


@dataclass(frozen=True, slots=True)
class ProblemFinished:
    """A problem has its result, which has the answer, the votes and the usage by purpose.

    `agreement` is the share of the attempts that voted for the answer. `dropped` names, by ordinal,
    the rule that took an attempt's vote away: the strategy's name.
    """

    result: Result
    agreement: float
    dropped: Mapping[int, str]
    time: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of `n` problems that were answered rightly, with its 95% interval."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has ended; the totals are those of the whole job, earlier runs included.

    `reason` is "done", "interrupted", "budget" or "failed". `usage` is by purpose. `accuracy` is
    None where no reference is known; `right` tells for each problem with a reference whether its
    answer is right. `n_lost` events were not handed to this sink, because it was too slow.
    """

    reason: str
    n_problems: int
    n_by_status: Mapping[str, int]
    usage: Mapping[str, Usage]
    seconds: float
    time: float
    accuracy: Accuracy | None = None
    right: Mapping[str, bool] = field(default_factory=dict)
    n_lost: int = 0


Event: TypeAlias = RunStarted | TraceFinished | ProblemFinished | RunEnded
Receive: TypeAlias = Callable[[Sequence[Event]], None]


class Sink(Protocol):
    """Reports running jobs to somewhere else."""

    def open(self, run: RunStarted) -> AbstractContextManager[Receive]:
        """Return a context that yields the function which receives the events of a run.

        It is called with one or more events, in order, about twice a second; the last one is
        RunEnded. All of it is called in one thread of its own, where it may block. The thread is
        not waited for without limit at the end of a run. Any exception ends the sink, not the job.
        """
