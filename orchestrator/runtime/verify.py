"""Runs the verifiers of a plan on one trace at a time, whichever form each of them has.

The one rule: a verifier that fails costs its verdict and leaves a note; only a dead engine ends the
run. Verifiers run while a trace is annotated, before the journal write: the verdict is journalled
with its trace, so a replay runs none of them.

A verifier that queries models is explored as a strategy is, by a `Session` of its own, whose seeds
derive from the plan's seed, the problem, the trace's ordinal, the verifier's name and the request's
number. At most as many of these requests are in flight as the window is wide; one that waits holds
no slot, so strategies and verifiers never wait for each other in a circle.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from orchestrator.plan import registry
from orchestrator.runtime.isolated_verifiers import IsolatedVerifiers, is_isolated

# And downwards: strategies number their requests from 0, and an engine serves both.
_FIRST_ORDINAL = -2


@dataclass(frozen=True, slots=True)
class VerifierOutcome:
    """A verdict, or a note that says why there is none; and what was spent without a verdict."""

    verdict: Verdict | None
    usage: Usage = Usage()
    note: str = ""


async def checked_reply(engine: Engine, request: Request) -> Trace:
    """Return the engine's valid reply to a request; a FAILED trace where it raises an error.

    EngineError when the engine is dead, which ends the run.
    """
    try:
        return validated(request, await engine.generate(request))
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - an engine plugin may raise anything; the trace fails, the job goes on
        return trace_for(request, Finish.FAILED, error=describe(error))


@dataclass(slots=True, eq=False)
class VerifierStrategy:
    """A model verifier on one trace, as a strategy that a Session explores."""

    verifier: ModelVerifier
    trace: Trace
    verdict: Verdict | None = None
    reason: str = ""  # why there is no verdict

    def explore(self, problem: Problem, rng: object) -> Steps:
        """Run the verifier; afterwards there is a verdict, or a reason why there is none."""
        try:
            self.verdict = yield from self.verifier.ask(problem, self.trace)
        except NoVerdict as refusal:
            self.reason = str(refusal)


@dataclass(slots=True, eq=False)
class _Verification:
    """A model verifier at work on one trace: its session, its tasks, and what the engine has."""

    session: Session
    tasks: dict[asyncio.Task[Trace], Request] = field(default_factory=dict)
    # by the ordinal within the session, as the engine knows it
    sent: dict[int, Request] = field(default_factory=dict)


class VerifierRunner:
    """Runs the verifiers of a plan. Belongs to the event loop of a run."""

    def __init__(
        self, plan: Plan, engine: Engine, isolated: IsolatedVerifiers, n_requests: int
    ) -> None:
        """Query `engine`, with at most `n_requests` at a time.

        The plan's sampling is for attempts: it does not fill what a verifier's request leaves open.
        """
        self._plan = Plan(models=plan.models, sampling=Sampling(), seed=plan.seed)
        self._engine = engine
        self._isolated = isolated
        self._verifiers: dict[str, Any] = {
            spec.name: registry.load("verifiers", spec) for spec in plan.verifiers
        }
        self._slots = asyncio.Semaphore(n_requests)
        self._ordinals = itertools.count(_FIRST_ORDINAL, -1)
        # by the identity of the trace's request
        self._open: dict[tuple[str, int], _Verification] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The plan's verifiers, in its order."""
        return tuple(self._verifiers)

    def queries_models(self, name: str) -> bool:
        """Tell whether a verifier queries models, which costs tokens."""
        return hasattr(self._verifiers.get(name), "ask")

    @property
    def n_open(self) -> int:
        """How many traces models are being queried about."""
        return len(self._open)

    async def run(self, name: str, problem: Problem, trace: Trace) -> VerifierOutcome:
        """Return what a verifier makes of a trace; one verifier at a time on a trace.

        EngineError when the engine is dead: the run ends, and this trace is generated again.
        """
        verifier = self._verifiers[name]
        usage = Usage()
        try:
            if self.queries_models(name):
                outcome = await self._query(name, verifier, problem, trace)
                if outcome.verdict is None:
                    return outcome
                usage = outcome.verdict.usage
                verdict = _checked_verdict([outcome.verdict])
            elif is_isolated(verifier):
                verdict = _checked_verdict([await self._isolated.verdict(name, problem, trace)])
            else:
                verdict = _checked_verdict(await verifier.score(problem, [trace]))
        except EngineError:
            raise
        except NoVerdict as refusal:
            return VerifierOutcome(None, usage, str(refusal))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the trace goes on without its verdict and says why
            return VerifierOutcome(None, usage, describe(error))
        return VerifierOutcome(verdict)

    def abort(self, request: Request) -> None:
        """Stop the requests about the trace of `request`: the verifier comes to no verdict on it.

        Ignored when no model is being queried about it.
        """
        verification = self._open.get(request.identity)
        if verification is not None:
            self._perform(verification, verification.session.stop("its trace was cancelled"))

    async def _query(
        self, name: str, verifier: ModelVerifier, problem: Problem, trace: Trace
    ) -> VerifierOutcome:
        strategy = VerifierStrategy(verifier, trace)
        seed = derive_seed(self._plan.seed, problem.id, trace.ordinal, name)
        session = Session(problem, strategy, changed(self._plan, seed=seed))
        verification = self._open[problem.id, trace.ordinal] = _Verification(session)
        try:
            await self._explore(verification)
        finally:
            del self._open[problem.id, trace.ordinal]
            for task in verification.tasks:
                task.cancel()
            await asyncio.gather(*verification.tasks, return_exceptions=True)
        usage = sum((t.usage for t in session.traces.values()), Usage())
        reason = session.error or session.stopped_by or strategy.reason
        if strategy.verdict is None or reason:
            return VerifierOutcome(None, usage, reason or "it returned no verdict")
        return VerifierOutcome(replace(strategy.verdict, usage=usage))

    async def _explore(self, verification: _Verification) -> None:
        session, tasks = verification.session, verification.tasks
        self._perform(verification, session.start())
        while not session.done:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda t: tasks[t].ordinal):
                request = tasks.pop(task)
                trace = trace_for(request, Finish.CANCELLED) if task.cancelled() else task.result()
                self._perform(verification, session.receive(trace))

    def _perform(self, verification: _Verification, effects: Iterable[Effect]) -> None:
        for effect in effects:
            request = effect.request
            if isinstance(effect, Start):
                task = asyncio.create_task(self._generate(verification, request))
                verification.tasks[task] = request
            elif request.ordinal in verification.sent:
                self._engine.abort(verification.sent[request.ordinal])
            else:  # it waits for a slot
                next(t for t, waiting in verification.tasks.items() if waiting is request).cancel()

    async def _generate(self, verification: _Verification, request: Request) -> Trace:
        async with self._slots:
            sent = changed(request, ordinal=next(self._ordinals))
            verification.sent[request.ordinal] = sent
            return changed(await checked_reply(self._engine, sent), ordinal=request.ordinal)


def _checked_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    [verdict] = verdicts
    # false for nan too
    if not all(0.0 <= score <= 1.0 for score in (verdict.score, *verdict.steps)):
        raise ValueError(f"scores are in [0, 1]; it gave {verdict}")
    return verdict
