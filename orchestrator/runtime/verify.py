"""Asks models for verifiers: drives the generator of one over one trace against the engine, beside
the requests of strategies.

Runs in dressing, before the journal write: the verdict is journalled with its trace, so a replay
asks nothing. Each generator is run as a strategy is, by a `Session` of its own, whose seeds derive
from the plan's seed, the problem, the trace's ordinal, the verifier's name and the request's
number. At most as many of these requests are in flight as the fleet's window is wide; what waits
holds no slot, so that strategies and verifiers never wait for each other in a circle.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from orchestrator.core.errors import EngineError, NoVerdict, describe
from orchestrator.core.plan import Plan, derive_seed
from orchestrator.core.protocols import Engine, ModelVerifier
from orchestrator.core.session import Effect, Session, Start
from orchestrator.core.steps import Steps
from orchestrator.core.values import (
    Finish,
    Problem,
    Request,
    Sampling,
    Trace,
    Usage,
    Verdict,
    changed,
)
from orchestrator.engines.reply import trace_for, validated

# and downwards: an engine tells requests apart by problem and ordinal, and strategies have theirs
# from 0
_FIRST_ORDINAL = -2


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking: a verdict, or a note that says why there is none; and what was spent on
    it either way.
    """

    verdict: Verdict | None
    usage: Usage
    note: str = ""


async def served(engine: Engine, request: Request) -> Trace:
    """Return the engine's sound reply; a FAILED trace where it raises anything but a EngineError,
    which ends the run.
    """
    try:
        return validated(request, await engine.generate(request))
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - an engine plugin may raise anything; the trace fails, the job goes on
        return trace_for(request, Finish.FAILED, error=describe(error))


@dataclass(slots=True, eq=False)
class Question:
    """One verifier's generator over one trace, as a strategy: what a Session explores."""

    verifier: ModelVerifier
    trace: Trace
    verdict: Verdict | None = None
    reason: str = ""

    def explore(self, problem: Problem, rng: object) -> Steps:
        """Ask; afterwards there is a verdict, or a reason why there is none."""
        try:
            self.verdict = yield from self.verifier.ask(problem, self.trace)
        except NoVerdict as refusal:
            self.reason = str(refusal)


@dataclass(slots=True, eq=False)
class _Inquiry:
    """A question under way: its session, its tasks, and what of it the engine has."""

    session: Session
    tasks: dict[asyncio.Task[Trace], Request] = field(default_factory=dict)
    # by the ordinal within the session, as the engine knows it
    sent: dict[int, Request] = field(default_factory=dict)


class VerifierRunner:
    """Asks an open engine for the verifiers of a plan. Belongs to the event loop of a run."""

    def __init__(self, plan: Plan, engine: Engine, n_at_once: int) -> None:
        """Ask `engine`, at most `n_at_once` requests at a time.

        What a request leaves open is not filled from the plan's sampling.
        """
        self._plan = Plan(models=plan.models, sampling=Sampling(), seed=plan.seed)
        self._engine = engine
        self._slots = asyncio.Semaphore(n_at_once)
        self._numbers = itertools.count(_FIRST_ORDINAL, -1)
        self._open: dict[tuple[str, int], _Inquiry] = {}

    async def asked(
        self, name: str, verifier: ModelVerifier, problem: Problem, trace: Trace
    ) -> Asked:
        """Return what the verifier of this name makes of a trace.

        EngineError when the engine is dead; one question a trace at a time.
        """
        question = Question(verifier, trace)
        seed = derive_seed(self._plan.seed, problem.id, trace.ordinal, name)
        session = Session(problem, question, changed(self._plan, seed=seed))
        inquiry = self._open[problem.id, trace.ordinal] = _Inquiry(session)
        try:
            await self._answer(inquiry)
        finally:
            del self._open[problem.id, trace.ordinal]
            for task in inquiry.tasks:
                task.cancel()
            await asyncio.gather(*inquiry.tasks, return_exceptions=True)
        usage = sum((t.usage for t in session.traces.values()), Usage())
        reason = session.error or session.stopped_by or question.reason
        if question.verdict is None or reason:
            return Asked(None, usage, reason or "it returned no verdict")
        return Asked(replace(question.verdict, usage=usage), Usage())

    @property
    def n_open(self) -> int:
        """How many traces are being asked about."""
        return len(self._open)

    def abort(self, problem_id: str, ordinal: int) -> None:
        """Stop asking about a trace: it comes to no verdict, and its requests are stopped.

        Ignored when nothing is asked about it.
        """
        inquiry = self._open.get((problem_id, ordinal))
        if inquiry is not None:
            self._perform(inquiry, inquiry.session.stop("its trace was cancelled"))

    async def _answer(self, inquiry: _Inquiry) -> None:
        self._perform(inquiry, inquiry.session.start())
        while not inquiry.session.done:
            done, _ = await asyncio.wait(inquiry.tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda t: inquiry.tasks[t].ordinal):
                request = inquiry.tasks.pop(task)
                trace = trace_for(request, Finish.CANCELLED) if task.cancelled() else task.result()
                self._perform(inquiry, inquiry.session.receive(trace))

    def _perform(self, inquiry: _Inquiry, effects: Iterable[Effect]) -> None:
        for effect in effects:
            request = effect.request
            if isinstance(effect, Start):
                inquiry.tasks[asyncio.create_task(self._served(inquiry, request))] = request
            elif request.ordinal in inquiry.sent:
                self._engine.abort(inquiry.sent[request.ordinal])
            else:  # it waits for a slot
                next(task for task, waiting in inquiry.tasks.items() if waiting is request).cancel()

    async def _served(self, inquiry: _Inquiry, request: Request) -> Trace:
        async with self._slots:
            sent = inquiry.sent[request.ordinal] = changed(request, ordinal=next(self._numbers))
            return changed(await served(self._engine, sent), ordinal=request.ordinal)
