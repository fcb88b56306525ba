"""Explores a problem without an engine or an event loop: a Session receives scripted traces.

Everything is a function of its arguments, so a simulation can be recorded and replayed, event by
event.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Strategy
from orchestrator.core.session import Effect, Session, Start
from orchestrator.core.values import Finish, Problem, Request, Trace
from orchestrator.testing.scripted.pools import PROBLEM, trace

Ending: TypeAlias = Trace | str | None
Event: TypeAlias = Trace | str  # an arriving trace, or the reason for a stop
MAX_TRACES = 20_000  # an exploration that needs more without a budget is stopped
INTERRUPT = "interrupt"
PURE = (
    "a strategy is a pure function of (problem, rng, traces): "
    "no state between calls, no clock, no order of a set, no unseeded draw"
)


@dataclass(frozen=True, slots=True)
class Step:
    """An event, the effects that the session returned, and the requests that then ran.

    `running` has each ordinal, with whether it was cancelled.
    """

    event: Event
    effects: tuple[Effect, ...]
    running: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, slots=True)
class Simulation:
    """A whole exploration: its first effects, every step, and the final session."""

    first: tuple[Effect, ...]
    steps: tuple[Step, ...]
    session: Session

    @property
    def events(self) -> list[Event]:
        """The events, in order."""
        return [step.event for step in self.steps]

    @property
    def effects(self) -> list[Effect]:
        """The session's effects, in order."""
        return [*self.first, *(effect for step in self.steps for effect in step.effects)]

    @property
    def requests(self) -> list[Request]:
        """The requests that were started, by ordinal."""
        return [effect.request for effect in self.effects if isinstance(effect, Start)]


def explore(
    strategy: Strategy,
    answer_of: Callable[[Request], Ending],
    plan: Plan | None = None,
    *,
    problem: Problem = PROBLEM,
    seed: int | None = None,
) -> Session:
    """Return the session of a whole exploration, with replies from `answer_of`.

    It returns an answer's text, None to abstain, or a trace (its ordinal and parent are set here).
    Traces arrive in the order of submission or, with a seed, in a shuffled order; requests that the
    strategy cancels arrive CANCELLED, without an answer. AssertionError if the exploration does not
    end within 20,000 traces.
    """
    session = Session(problem, strategy, plan or Plan())
    record(session, answer_of, random.Random(seed) if seed is not None else None)
    if session.stopped_by == INTERRUPT:
        raise AssertionError(
            f"it ends: after {MAX_TRACES} traces the strategy still requests more; "
            "give the plan a budget"
        )
    return session


def record(
    session: Session,
    answer_of: Callable[[Request], Ending],
    rng: random.Random | None,
    n_max: int = MAX_TRACES,
) -> Simulation:
    """Run a new session to its end and return its record.

    It is stopped if it is still exploring after `n_max` traces.
    """
    first = tuple(session.start())
    steps: list[Step] = []
    while session.running:
        if session.exploring and len(steps) >= n_max:
            steps.append(step(session, INTERRUPT))
        ordinals = list(session.running)
        ordinal = ordinals[0] if rng is None else rng.choice(ordinals)
        steps.append(step(session, arrival(session, ordinal, answer_of)))
    return Simulation(first, tuple(steps), session)


def play(session: Session, events: Iterable[Event]) -> Simulation:
    """Replay recorded events in a new session and return its record."""
    first = tuple(session.start())
    return Simulation(first, tuple(step(session, event) for event in events), session)


def step(session: Session, event: Event) -> Step:
    """Pass one event to a session."""
    if not isinstance(event, str) and event.ordinal not in session.running:
        raise AssertionError(
            f"deterministic: trace {event.ordinal} arrived before and was not started this time; "
            f"{PURE}"
        )
    effects = session.stop(event) if isinstance(event, str) else session.receive(event)
    return Step(event, tuple(effects), tuple((o, session.is_cancelled(o)) for o in session.running))


def arrival(session: Session, ordinal: int, answer_of: Callable[[Request], Ending]) -> Trace:
    """Return the trace with which a running request ends."""
    request = session.running[ordinal]
    reply = answer_of(request)
    arrived = reply if isinstance(reply, Trace) else trace(ordinal, reply)
    arrived = replace(
        arrived,
        ordinal=ordinal,
        parent=request.parent,
        purpose=request.purpose,
        model=request.model,
        depth=request.depth,
        subjects=request.subjects,
    )
    if session.is_cancelled(ordinal):
        arrived = replace(arrived, finish=Finish.CANCELLED, answer=None, verdicts=(), error="")
    return arrived
