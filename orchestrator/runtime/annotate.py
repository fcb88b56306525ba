"""From a completion to a dressed trace: extract the answer, put it in its equivalence class, verify
it.

Everything slow or non-deterministic happens here, before the journal write. What takes linear time
runs in place; what may hang or eat memory runs in the killable processes of
`orchestrator.runtime.answer_workers`. A limit that is hit leaves a note on the trace, never
silence.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.errors import EngineError, describe
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Domain, ModelVerifier, Verifier
from orchestrator.core.values import (
    Answer,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Trace,
    Usage,
    Verdict,
    changed,
)
from orchestrator.plan import registry
from orchestrator.runtime.answer_workers import AnswerWorkers, DomainRef, Match
from orchestrator.runtime.verify import Asked, VerifierRunner

_REMEMBERED = 65_536  # canonical forms per domain: some 10 MB of short answers


@dataclass(slots=True)
class Classes:
    """The equivalence classes of one problem's answers. Changed only by the Dresser."""

    keys: dict[str, str] = field(default_factory=dict)  # canonical form -> key
    representatives: list[Answer] = field(default_factory=list)  # the first answer of each class
    lock: asyncio.Lock | None = None  # made when a comparison first has to wait

    def restore(self, answer: Answer) -> None:
        """Take back a class that a journal knows."""
        if all(answer.key != known.key for known in self.representatives):
            self.representatives.append(answer)
            self.keys[answer.key] = answer.key


@dataclass(frozen=True, slots=True)
class _Loaded:
    domain: Domain
    # the domain's, remembered: the same few answers come up again and again
    canonical: Callable[[str], str]
    ref: DomainRef


class Annotator:
    """Dresses the traces of a plan's problems."""

    def __init__(
        self, plan: Plan, checkers: AnswerWorkers, asker: VerifierRunner | None = None
    ) -> None:
        """Load the plan's domains as they are needed.

        Without an `asker` verifiers that ask models give no verdict, and say so.
        """
        self._plan = plan
        self._checkers = checkers
        self._domains: dict[str, _Loaded] = {}
        self._asker = asker
        self._verifiers: dict[str, Verifier | ModelVerifier] = {
            s.name: registry.load("verifiers", s) for s in plan.verifiers
        }
        self.n_undecided = 0  # answers whose comparison ran into its limit

    async def dress(
        self,
        problem: Problem,
        request: Request,
        trace: Trace,
        classes: Classes,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Trace:
        """Return the trace with answer and verdicts. Traces that failed, or that are no attempt at
        the problem, only get their text.

        `cancelled` tells whether its strategy has given it up meanwhile: then no model is asked
        about it any more.
        """
        if trace.finish is Finish.FAILED or request.purpose not in (
            Purpose.SOLVE,
            Purpose.PROBE,
            Purpose.AGGREGATE,
        ):
            return trace
        loaded = self._domain(problem.domain)
        domain = loaded.domain
        text = (
            f"{request.prefix_text}{request.suffix}{trace.text}"
            if request.parent is not None or request.suffix
            else trace.text
        )
        finished = trace.finish is Finish.STOP
        answer, note = None, ""
        if domain.in_process:
            stated = domain.extract(text, finished)
            canonical = "" if stated is None else loaded.canonical(stated)
        else:
            examined = await self._checkers.examine(loaded.ref, text, finished)
            stated, canonical, note = examined.answer, examined.canonical or "", examined.note
        if stated is not None:
            answer, doubt = await self._classified(loaded, stated, canonical, classes)
            note = _joined(note, doubt)
        self.n_undecided += bool(note)
        trace = changed(trace, answer=answer, note=_joined(trace.note, note))
        wanted = request.verifiers or tuple(self._verifiers)
        if wanted and (
            trace.finish is Finish.CANCELLED
            or cancelled()
            or (request.purpose is Purpose.PROBE and not request.verifiers)
        ):
            # nobody would read what it costs to ask
            wanted = tuple(name for name in wanted if not _asks(self._verifiers.get(name)))
        return await self._verified(problem, trace, text, wanted) if wanted else trace

    @property
    def n_asking(self) -> int:
        """About how many traces models are being asked."""
        return 0 if self._asker is None else self._asker.n_open

    def abort(self, request: Request) -> None:
        """Stop asking models about the trace of a request; it is dressed without those verdicts."""
        if self._asker is not None:
            self._asker.abort(request.problem_id, request.ordinal)

    async def same(self, domain: str, a: str, b: str) -> bool:
        """Tell whether two answers are equivalent in a domain: how `evaluate` compares with
        references.
        """
        loaded = self._domain(domain)
        if loaded.domain.in_process:
            x, y = loaded.canonical(a), loaded.canonical(b)
            if x == y:
                return True
            if _complete(x) and _complete(y):
                return False
        return (await self._match(loaded, a, [b])).index is not None

    def _domain(self, name: str) -> _Loaded:
        if name not in self._domains:
            spec = self._plan.domains.get(name, PluginSpec(name))
            domain = registry.load("domains", spec)
            canonical = functools.lru_cache(_REMEMBERED)(domain.canonical)
            self._domains[name] = _Loaded(
                domain, canonical, DomainRef(spec, registry.decorated_origin("domains", spec.name))
            )
        return self._domains[name]

    async def _match(self, loaded: _Loaded, answer: str, known: Sequence[str]) -> Match:
        return await self._checkers.match(loaded.ref, answer, known)

    async def _classified(
        self, loaded: _Loaded, stated: str, canonical: str, classes: Classes
    ) -> tuple[Answer, str]:
        key = classes.keys.get(canonical)
        if key is not None:
            return Answer(stated, key), ""
        waiting = classes.lock is not None and classes.lock.locked()
        if not waiting and _settled(canonical, classes.representatives):
            return _founded(stated, canonical, classes), ""
        classes.lock = classes.lock or asyncio.Lock()
        async with classes.lock:  # two equal answers compared at once would found two classes
            key = classes.keys.get(canonical)
            if key is not None:
                return Answer(stated, key), ""
            if _settled(canonical, classes.representatives):
                return _founded(stated, canonical, classes), ""
            known = list(classes.representatives)
            match = await self._match(loaded, stated, [a.text for a in known])
            note = "; ".join(
                f"not decided whether it equals {known[u.index].text!r}: {u.reason}"
                for u in match.undecided
            )
            if match.index is None:
                return _founded(stated, canonical, classes), note
            key = classes.keys[canonical] = known[match.index].key
            return Answer(stated, key), note

    async def _verified(
        self, problem: Problem, trace: Trace, text: str, names: Sequence[str]
    ) -> Trace:
        verdicts: list[Verdict] = []
        unjudged = trace.unjudged
        # of a continuation a verifier sees all, not the last step
        whole = trace if text == trace.text else changed(trace, text=text)
        note = trace.note
        for name in names:
            try:
                asked = await self._judged(name, problem, whole)
                unjudged += asked.usage
                note = _joined(note, f"verifier {name}: {asked.note}" if asked.note else "")
                if asked.verdict is not None:
                    verdicts.append(asked.verdict)
            # a dead engine gives no verdict on anything: the run ends, and this trace is generated
            # again
            except EngineError:
                raise
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the trace goes on without its verdict and says why
                note = _joined(note, f"verifier {name}: {describe(error)}")
        return changed(trace, verdicts=tuple(verdicts), note=note, unjudged=unjudged)

    async def _judged(self, name: str, problem: Problem, trace: Trace) -> Asked:
        verifier: Any = self._verifiers[name]
        if not _asks(verifier):
            return Asked(_one_verdict(await verifier.score(problem, [trace])), Usage())
        if self._asker is None:
            return Asked(None, Usage(), "it asks a model; there is no engine here")
        asked = await self._asker.asked(name, verifier, problem, trace)
        try:
            return (
                asked
                if asked.verdict is None
                else replace(asked, verdict=_one_verdict([asked.verdict]))
            )
        except ValueError as error:
            return Asked(None, asked.verdict.usage if asked.verdict else asked.usage, str(error))


def _asks(verifier: object) -> bool:
    return hasattr(verifier, "ask")


def _joined(note: str, more: str) -> str:
    return f"{note}; {more}" if note and more else note or more


def _one_verdict(given: Sequence[Verdict]) -> Verdict:
    [verdict] = given
    # false for nan too
    if not all(0.0 <= score <= 1.0 for score in (verdict.score, *verdict.steps)):
        raise ValueError(f"scores are in [0, 1]; it gave {verdict}")
    return verdict


def _complete(canonical: str) -> bool:
    return canonical.startswith("=")


def _settled(canonical: str, representatives: Sequence[Answer]) -> bool:
    """Tell whether an answer of unknown form is certainly of none of these classes."""
    return not representatives or (
        _complete(canonical) and all(_complete(a.key) for a in representatives)
    )


def _founded(stated: str, canonical: str, classes: Classes) -> Answer:
    answer = Answer(stated, canonical)
    classes.keys[canonical] = canonical
    classes.representatives.append(answer)
    return answer
