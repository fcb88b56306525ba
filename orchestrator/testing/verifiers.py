"""The contract of verifiers: one verdict per trace, in order, with scores in [0, 1].

A verifier need not be deterministic. A Session runs a verifier that queries models (`ask`), with
replies that depend on its requests: good, unreadable, failed or cut off. Its verdict must depend
only on the replies, not on their order, and there must be none if every request fails.

Not checked: the quality of verdicts.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import IsolatedVerifier, ModelVerifier, Verifier
from orchestrator.core.session import Abort, Session
from orchestrator.core.values import Finish, Problem, Purpose, Request, Trace, Verdict
from orchestrator.kit.prompts import question
from orchestrator.runtime.verify import VerifierStrategy
from orchestrator.testing.rules import (
    check_needs,
    check_value,
    model_pools,
    no_global_randomness,
    require,
    run_when_called,
)
from orchestrator.testing.scripted.pools import PROBLEM, trace
from orchestrator.testing.scripted.simulation import record

_UNUSUAL = ("", " \n", "\\boxed{", "🙂" * 50, "\x00", "no answer here", "word " * 2000)
_VERDICTS = ("Verdict: correct", "Verdict: incorrect")
_SCORES = ("Score: 3/10", "Score: 9/10", "<think>Hm.</think> Score: 7")
_UNREADABLE = ("I am not sure.", "")
_World: TypeAlias = tuple[Sequence[Finish], Sequence[str]]  # how requests end, and their text
_FAILS: _World = ((Finish.FAILED,), ("",))
_WORLDS: Mapping[str, _World] = {
    "with verdicts": ((Finish.STOP,), _VERDICTS),
    "with scores": ((Finish.STOP,), _SCORES),
    "with replies that may be unreadable or cut": (
        (Finish.STOP, Finish.LENGTH),
        (*_VERDICTS, *_SCORES, *_UNREADABLE),
    ),
    "where some requests fail": (
        (Finish.STOP, Finish.STOP, Finish.FAILED, Finish.CANCELLED),
        (*_VERDICTS, *_SCORES),
    ),
    "where every request fails": _FAILS,
}


@run_when_called
async def check_verifier(
    verifier: Verifier | ModelVerifier | IsolatedVerifier,
    *,
    name: str = "",
    problem: Problem = PROBLEM,
    traces: Sequence[Trace] = (),
) -> None:
    """Check the contract of a verifier on the given traces and on traces of every kind.

    `name` is the registered name: verdicts must have it, because selectors look them up by name.
    It runs when it is called; awaiting it does nothing more.
    """
    check_value(verifier)
    plugin: Any = verifier
    unusual = [
        Trace(100 + i, text, finish=finish)
        for i, text in enumerate(_UNUSUAL)
        for finish in (Finish.STOP, Finish.LENGTH)
    ]
    usual = [*traces, *(trace(200 + i, answer) for i, answer in enumerate(("42", "41", None)))]
    every = [*usual, trace(300, "42", finish=Finish.CANCELLED), *unusual]
    with no_global_randomness():
        if hasattr(verifier, "ask"):
            _check_model_verifier(plugin, name, problem, every)
            return
        if hasattr(verifier, "check"):
            bounded = getattr(plugin, "seconds", 0) > 0 and getattr(plugin, "memory_mib", 0) >= 256
            remedy = "declare `seconds` above 0 and `memory_mib` of at least 256"
            require(bounded, "limits", f"its process would not be bounded; {remedy}")
        for batch in ([], usual[:1], usual, unusual, every):
            await _verdicts(plugin, name, problem, batch)
        await _check_order(plugin, name, problem, usual)


async def _verdicts(
    verifier: Verifier, name: str, problem: Problem, batch: Sequence[Trace]
) -> list[Verdict]:
    """Return the verdicts on a batch, after checking them."""
    before = copy.deepcopy(list(batch))
    try:
        if hasattr(verifier, "check"):
            verdicts = [verifier.check(problem, one) for one in batch]
        else:
            verdicts = await verifier.score(problem, batch)
    except Exception as error:
        raise AssertionError(
            f"raises nothing: {error!r} for {len(batch)} traces; "
            "a trace that cannot be verified gets a low score"
        ) from error
    require(list(batch) == before, "pure", "it changed the traces; build new values")
    returned: object = verdicts
    well_formed = isinstance(returned, list) and all(isinstance(v, Verdict) for v in returned)
    require(well_formed, "verdicts", f"it returned {verdicts!r:.200}; return a list of Verdicts")
    require(
        len(verdicts) == len(batch),
        "one verdict per trace",
        f"{len(verdicts)} verdicts for {len(batch)} traces; "
        "score every trace, also one without an answer, and return [] for []",
    )
    for verdict in verdicts:
        _check_verdict(verdict, name)
    return verdicts


async def _check_order(verifier: Verifier, name: str, problem: Problem, batch: list[Trace]) -> None:
    """Reverse the batch: verdicts must be reversed too, unless the verifier is random."""
    forward = await _verdicts(verifier, name, problem, batch)
    if forward != await _verdicts(verifier, name, problem, batch):
        return
    backward = await _verdicts(verifier, name, problem, batch[::-1])
    scores, reverse = [v.score for v in forward], [v.score for v in reversed(backward)]
    require(
        scores == reverse,
        "verdicts in the order of the traces",
        f"{scores} forwards, {reverse} backwards; keep the order",
    )


def _check_verdict(verdict: Verdict, name: str) -> None:
    scores = (verdict.score, *verdict.steps)
    in_range = all(math.isfinite(s) and 0 <= s <= 1 for s in scores)
    require(in_range, "scores in [0, 1]", f"{scores!r:.200}; scale them, higher is better")
    require(
        verdict.verifier == name if name else bool(verdict.verifier),
        "name",
        f"a verdict carries the name {verdict.verifier!r}; "
        f"use the one under which the verifier is registered, {name!r}",
    )


def _check_model_verifier(
    verifier: ModelVerifier, name: str, problem: Problem, traces: Iterable[Trace]
) -> None:
    """Check the verifier on each trace, with every set of replies and several orders of arrival."""
    n_verdicts = 0
    copied: ModelVerifier = pickle.loads(pickle.dumps(verifier))
    for subject in traces:
        for label, world in _WORLDS.items():
            where = f"{label}, about {subject.text!r:.40}"
            first = _verdict(verifier, name, problem, subject, world, None, where)
            for order in range(3):
                other = _verdict(copied, name, problem, subject, world, order, where)
                require(
                    first == other,
                    "order of arrival",
                    f"{where}: {first} and {other}; wait for replies by their ordinals",
                )
            require(
                first is None or world is not _FAILS,
                "no verdict without a reply",
                f"{where} it gave {first}; raise NoVerdict",
            )
            n_verdicts += first is not None
    require(n_verdicts > 0, "verdicts", "it reached no verdict on any trace; read the replies")


def _verdict(
    verifier: ModelVerifier,
    name: str,
    problem: Problem,
    subject: Trace,
    world: _World,
    order: int | None,
    where: str,
) -> Verdict | None:
    """Return the verdict on a trace, after checking it; None if there is none."""
    before = copy.deepcopy(subject)
    strategy = VerifierStrategy(verifier, subject)
    session = Session(problem, strategy, Plan(models=model_pools(verifier), seed=subject.ordinal))
    rng = None if order is None else random.Random(order)
    recording = record(session, _replies(*world), rng, 1000)
    require(not session.error, "raises nothing but NoVerdict", f"{where}: {session.error}")
    require(
        not session.stopped_by,
        "ends",
        f"{where} it still submits requests after a thousand replies",
    )
    require(subject == before, "pure", "it changed the trace; build new values")
    require(
        not any(isinstance(effect, Abort) for effect in recording.effects),
        "waits for what it asked",
        f"{where} it returned while requests ran",
    )
    _check_requests(verifier, recording.requests, subject)
    if strategy.verdict is None:
        require(
            bool(strategy.reason),
            "says why",
            f"{where}: it returned no Verdict, or raised NoVerdict without a text",
        )
        return None
    _check_verdict(strategy.verdict, name)
    return strategy.verdict


def _check_requests(verifier: ModelVerifier, requests: Sequence[Request], subject: Trace) -> None:
    for request in requests:
        require(
            (request.purpose, request.subjects) == (Purpose.VERIFY, (subject.ordinal,)),
            "purpose",
            "its requests are charged to `Purpose.VERIFY`, and their subject is the trace; say so",
        )
        parent = None if request.parent is None else requests[request.parent]
        require(
            parent is None or parent.prompt == request.prompt,
            "continuation",
            "a continuation has another prompt than what it continues; give it the same",
        )
    check_needs(getattr(verifier, "needs", ()), requests, getattr(verifier, "tasks", ()))


def _replies(finishes: Sequence[Finish], texts: Sequence[str]) -> Callable[[Request], Trace]:
    """Return a world: replies determined by a request's seed."""

    def reply(request: Request) -> Trace:
        rng = random.Random(request.seed)
        finish = rng.choice(finishes)
        if finish in (Finish.FAILED, Finish.CANCELLED):
            return trace(request.ordinal, None, finish=finish, tokens=0)
        n_values = question(request.prompt).count(request.read_at) if request.read_at else 1
        metrics = {name: -5 * rng.random() for name in request.metrics}
        return replace(
            trace(request.ordinal, None, finish=finish, metrics=metrics),
            text=rng.choice(texts),
            values=tuple(rng.gauss(0, 2) for _ in range(n_values)),
        )

    return reply
