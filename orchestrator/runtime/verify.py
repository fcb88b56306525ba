"""Runs the verifiers of a plan on one trace at a time, for all forms of verifier.

The one rule: a verifier that fails loses its verdict and leaves a note; only a dead engine ends the
run. Verifiers run while a trace is annotated, before the journal write. The verdict is journalled
with its trace, so a replay runs no verifiers.

A verifier that queries models is explored like a strategy, in its own `Session`. Its seeds derive
from the plan's seed, the problem, the trace's ordinal, the verifier's name and the request's
number. The number of these requests in flight is limited to the window. A waiting request takes no
slot, so strategies and verifiers cannot deadlock.
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

# Counts downwards: strategies number their requests from 0, and one engine serves both.
_FIRST_ORDINAL = -2


@dataclass(frozen=True, slots=True)
class VerifierOutcome:
    """A verdict, or a note that explains why there is none, with the usage in that case."""

    verdict: Verdict | None
    usage: Usage = Usage()
    note: str = ""


async def checked_reply(engine: Engine, request: Request) -> Trace:
    """Return the engine's valid reply to a request, or a FAILED trace if it raises an error.

    Raises EngineError when the engine is dead, which ends the run.
    """
    try:
        return validated(request, await engine.generate(request))
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - an engine plugin may raise anything; the trace fails and the job continues
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
    """A model verifier running on one trace: its session, its tasks, and its sent requests."""

    session: Session
    tasks: dict[asyncio.Task[Trace], Request] = field(default_factory=dict)
    # ordinal within the session -> the request as the engine received it
    sent: dict[int, Request] = field(default_factory=dict)


class VerifierRunner:
    """Runs the verifiers of a plan; belongs to the event loop of a run."""

    def __init__(
        self, plan: Plan, engine: Engine, isolated: IsolatedVerifiers, n_requests: int
    ) -> None:
        """Query `engine`, with at most `n_requests` at a time.

        The plan's sampling is for attempts. It does not provide defaults for a verifier's requests.
        """
        self._plan = Plan(models=plan.models, sampling=Sampling(), seed=plan.seed)
        self._engine = engine
        self._isolated = isolated
        self._verifiers: dict[str, Any] = {
            spec.name: registry.load("verifiers", spec) for spec in plan.verifiers
        }
        self._slots = asyncio.Semaphore(n_requests)
        self._ordinals = itertools.count(_FIRST_ORDINAL, -1)
        # by the identity of the request that produced the trace
        self._open: dict[tuple[str, int], _Verification] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the plan's verifiers, in its order."""
        return tuple(self._verifiers)

    def queries_models(self, name: str) -> bool:
        """Return whether a verifier queries models, which costs tokens."""
        return hasattr(self._verifiers.get(name), "ask")

    @property
    def n_open(self) -> int:
        """The number of traces that models are being queried about."""
        return len(self._open)

    async def run(self, name: str, problem: Problem, trace: Trace) -> VerifierOutcome:
        """Return a verifier's outcome for a trace; run only one verifier at a time on a trace.

        Raises EngineError when the engine is dead: the run ends, and this trace is generated again.
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
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the trace continues without its verdict, with a note
            return VerifierOutcome(None, usage, describe(error))
        return VerifierOutcome(verdict)

    def abort(self, request: Request) -> None:
        """Stop the requests about the trace of `request`; its verifier gives no verdict.

        Ignored when no model is being queried about the trace.
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
            else:  # the request waits for a slot
                next(t for t, waiting in verification.tasks.items() if waiting is request).cancel()

    async def _generate(self, verification: _Verification, request: Request) -> Trace:
        async with self._slots:
            sent = changed(request, ordinal=next(self._ordinals))
            verification.sent[request.ordinal] = sent
            return changed(await checked_reply(self._engine, sent), ordinal=request.ordinal)


def _checked_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    [verdict] = verdicts
    # also false for nan
    if not all(0.0 <= score <= 1.0 for score in (verdict.score, *verdict.steps)):
        raise ValueError(f"scores are in [0, 1]; it gave {verdict}")
    return verdict
