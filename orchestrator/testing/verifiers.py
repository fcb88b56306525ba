"""The contract of verifiers: one verdict per trace, in order, with scores in [0, 1]. A verifier
need not be deterministic.

Of one that asks models (`ask`): a verdict that its replies alone decide, whatever their order, and
none where every request fails.

The contract of verifiers that ask models, run by a Session over replies that a request alone
decides: good, unreadable, failed, cut off.

It does not tell whether a verdict is any good; only that it is one, that it is none where nothing
was had, and what it was asked for.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from orchestrator.core.plan import Model, Plan
from orchestrator.core.protocols import IsolatedVerifier, ModelVerifier, Verifier
from orchestrator.core.session import Abort, Session, Start
from orchestrator.core.values import Capability, Finish, Problem, Purpose, Request, Trace, Verdict
from orchestrator.kit.prompts import question
from orchestrator.runtime.verify import VerifierStrategy
from orchestrator.testing.pools import PROBLEM, trace
from orchestrator.testing.rules import check_value, no_global_randomness, require
from orchestrator.testing.simulation import record

_UNUSUAL = ("", " \n", "\\boxed{", "🙂" * 50, "\x00", "no answer here", "word " * 2000)


async def check_verifier(
    verifier: Verifier | ModelVerifier | IsolatedVerifier,
    *,
    name: str = "",
    problem: Problem = PROBLEM,
    traces: Sequence[Trace] = (),
) -> None:
    """Check the contract of a verifier, on traces of every kind besides those given.

    `name` is the one under which it is registered: its verdicts must carry it, because selectors
    look for it.
    """
    check_value(verifier)
    plain: Any = verifier
    unusual = [
        Trace(100 + i, text, finish=finish)
        for i, text in enumerate(_UNUSUAL)
        for finish in (Finish.STOP, Finish.LENGTH)
    ]
    usual = [*traces, *(trace(200 + i, answer) for i, answer in enumerate(("42", "41", None)))]
    cancelled = trace(300, "42", finish=Finish.CANCELLED)
    if hasattr(verifier, "ask"):
        check_asking(plain, name, problem, [*usual, cancelled, *unusual])
        return
    with no_global_randomness():
        for batch in ([], usual[:1], usual, unusual, [*usual, cancelled, *unusual]):
            await _checked(plain, name, problem, batch)
        await _check_order(plain, name, problem, usual)


async def _checked(
    verifier: Verifier, name: str, problem: Problem, batch: Sequence[Trace]
) -> list[Verdict]:
    before = copy.deepcopy(list(batch))
    try:
        if hasattr(verifier, "check"):
            verdicts = [verifier.check(problem, one) for one in batch]
        else:
            verdicts = await verifier.score(problem, batch)
    except Exception as error:
        raise AssertionError(
            f"raises nothing: {error!r} for {len(batch)} traces; a trace that cannot be judged gets a low score"
        ) from error
    require(list(batch) == before, "pure", "it changed the traces; build new values")
    returned: object = verdicts
    well_made = isinstance(returned, list) and all(isinstance(v, Verdict) for v in returned)
    require(well_made, "verdicts", f"it returned {verdicts!r:.200}; return a list of Verdicts")
    n = f"{len(verdicts)} verdicts for {len(batch)} traces"
    require(
        len(verdicts) == len(batch),
        "one verdict per trace",
        f"{n}; judge every trace, also one without an answer, and [] for []",
    )
    for verdict in verdicts:
        check_verdict(verdict, name)
    return verdicts


async def _check_order(verifier: Verifier, name: str, problem: Problem, batch: list[Trace]) -> None:
    """Turn the batch round: the verdicts must turn with it, unless the verifier draws."""
    forward = await _checked(verifier, name, problem, batch)
    if forward != await _checked(verifier, name, problem, batch):
        return
    backward = await _checked(verifier, name, problem, batch[::-1])
    scores, turned = [v.score for v in forward], [v.score for v in reversed(backward)]
    require(
        scores == turned,
        "verdicts in the order of the traces",
        f"{scores} forwards, {turned} backwards; keep the order",
    )


_VERDICTS = ("Verdict: correct", "Verdict: incorrect")
_SCORES = ("Score: 3/10", "Score: 9/10", "<think>Hm.</think> Score: 7")
_OTHERS = ("I am not sure.", "")
_World: TypeAlias = tuple[Sequence[Finish], Sequence[str]]
_FAILS: _World = ((Finish.FAILED,), ("",))
_WORLDS: Mapping[str, _World] = {  # how requests end, and what is replied
    "with verdicts": ((Finish.STOP,), _VERDICTS),
    "with scores": ((Finish.STOP,), _SCORES),
    "with replies that may be unreadable or cut": (
        (Finish.STOP, Finish.LENGTH),
        (*_VERDICTS, *_SCORES, *_OTHERS),
    ),
    "where some requests fail": (
        (Finish.STOP, Finish.STOP, Finish.FAILED, Finish.CANCELLED),
        (*_VERDICTS, *_SCORES),
    ),
    "where every request fails": _FAILS,
}


def check_verdict(verdict: Verdict, name: str) -> None:
    """Check a verdict's scores and name."""
    scores = (verdict.score, *verdict.steps)
    sound = all(math.isfinite(s) and 0 <= s <= 1 for s in scores)
    require(sound, "scores in [0, 1]", f"{scores!r:.200}; scale them, higher is better")
    named = verdict.verifier == name if name else bool(verdict.verifier)
    require(
        named,
        "name",
        f"a verdict is of {verdict.verifier!r}; give the name under which the verifier is registered, {name!r}",
    )


def check_asking(
    verifier: ModelVerifier, name: str, problem: Problem, traces: Iterable[Trace]
) -> None:
    """Check the contract on each of these traces, in every world of replies and in several orders
    of their arrival.
    """
    n_verdicts = 0
    with no_global_randomness():
        for judged in traces:
            for told, world in _WORLDS.items():
                where = f"{told}, about {judged.text!r:.40}"
                first = _asked(verifier, name, problem, judged, world, None, where)
                again: ModelVerifier = pickle.loads(pickle.dumps(verifier))
                for order in range(3):
                    other = _asked(again, name, problem, judged, world, order, where)
                    require(
                        first == other,
                        "order of arrival",
                        f"{where}: {first} and {other}; wait for replies by their ordinals",
                    )
                if world is _FAILS:
                    require(
                        first is None,
                        "no verdict without a reply",
                        f"{where} it gave {first}; raise NoVerdict",
                    )
                n_verdicts += first is not None
    require(
        n_verdicts > 0, "verdicts", "it came to no verdict on anything; read what replies state"
    )


def _asked(
    verifier: ModelVerifier,
    name: str,
    problem: Problem,
    judged: Trace,
    world: _World,
    order: int | None,
    where: str,
) -> Verdict | None:
    """Return the verdict; None where the verifier comes to none."""
    models = {
        pool: Model("any")
        for pool in ("main", getattr(verifier, "model", ""), *getattr(verifier, "pools", ()))
        if pool
    }
    before = copy.deepcopy(judged)
    asked = VerifierStrategy(verifier, judged)
    session = Session(problem, asked, Plan(models=models, seed=judged.ordinal))
    recording = record(
        session, _replies(*world), None if order is None else random.Random(order), 1000
    )
    require(not session.error, "raises nothing but NoVerdict", f"{where}: {session.error}")
    require(not session.stopped_by, "ends", f"{where} it still asks after a thousand replies")
    require(judged == before, "pure", "it changed the trace; build new values")
    effects = [
        e for effects in (recording.first, *(s.effects for s in recording.steps)) for e in effects
    ]
    require(
        not any(isinstance(e, Abort) for e in effects),
        "waits for what it asked",
        f"{where} it returned while requests ran",
    )
    _check_requests(verifier, [e.request for e in effects if isinstance(e, Start)], judged)
    if asked.verdict is None:
        require(
            bool(asked.reason),
            "says why",
            f"{where}: it returned no Verdict, or raised NoVerdict without a text",
        )
        return None
    check_verdict(asked.verdict, name)
    return asked.verdict


def _check_requests(verifier: ModelVerifier, requests: Sequence[Request], judged: Trace) -> None:
    needs: frozenset[Capability] = frozenset(getattr(verifier, "needs", ()))
    tasks = getattr(verifier, "tasks", {})
    for request in requests:
        named = (request.purpose, request.subjects) == (Purpose.VERIFY, (judged.ordinal,))
        require(
            named,
            "purpose",
            "its requests are charged to `Purpose.VERIFY`, and their subject is the trace; say so",
        )
        parent = None if request.parent is None else requests[request.parent]
        remedy = "a continuation asks another prompt than what it continues; give it the same"
        require(parent is None or parent.prompt == request.prompt, "continuation", remedy)
    uses = {
        Capability.LOGPROBS: any(r.metrics for r in requests),
        Capability.CONTINUE: any(r.parent is not None for r in requests),
        Capability.POOL: any(r.model in tasks for r in requests),
    }
    missing = sorted(c for c, used in uses.items() if used and c not in needs)
    require(not missing, "needs", f"its requests take {', '.join(missing)}; list it in `needs`")


def _replies(finishes: Sequence[Finish], texts: Sequence[str]) -> Callable[[Request], Trace]:
    def reply(request: Request) -> Trace:
        rng = random.Random(request.seed)
        finish = rng.choice(finishes)
        if finish in (Finish.FAILED, Finish.CANCELLED):
            return trace(request.ordinal, None, finish=finish, tokens=0)
        n_values = question(request.prompt).count(request.read_at) if request.read_at else 1
        made = trace(
            request.ordinal,
            None,
            finish=finish,
            metrics={name: -5 * rng.random() for name in request.metrics},
        )
        return replace(
            made, text=rng.choice(texts), values=tuple(rng.gauss(0, 2) for _ in range(n_values))
        )

    return reply
