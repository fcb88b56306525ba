"""From a raw trace to an annotated one: its answer, the answer's equivalence class, its verdicts.

The one rule: everything slow or non-deterministic happens here, before the journal write. Code that
takes linear time runs in place; code that may hang or exhaust memory runs in processes that can be
killed. Reaching a limit always leaves a note on the trace. Not covered: comparing answers
(`orchestrator.runtime.answer_workers`) and running verifiers (`orchestrator.runtime.verify`).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Domain, runs_in_process
from orchestrator.core.values import (
    Answer,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Trace,
    calls_text,
    changed,
)
from orchestrator.kit.answers.thinking import Reading, reading
from orchestrator.plan import registry
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.verify import VerifierRunner
from orchestrator.runtime.workers.child import Load
from orchestrator.runtime.workers.pool import CallFailed, plugin_reference

_CACHE_SIZE = 65_536  # canonical forms per domain: some 10 MB of short answers
# those that may state an answer to the problem
_ANNOTATED = (Purpose.SOLVE, Purpose.PROBE, Purpose.AGGREGATE)


@dataclass(slots=True)
class Classes:
    """The equivalence classes of one problem's answers. Changed only by the Annotator."""

    keys: dict[str, str] = field(default_factory=dict)  # canonical form -> key
    representatives: list[Answer] = field(default_factory=list)  # the first answer of each class
    # those whose keys are from a journal: an earlier version may have made them in another way
    restored: list[Answer] = field(default_factory=list)
    lock: asyncio.Lock | None = None  # created when a comparison first has to wait

    def restore(self, answer: Answer) -> None:
        """Add a class from a journal, unless it is known."""
        if all(answer.key != known.key for known in self.representatives):
            self.add(answer)
            self.restored.append(answer)

    def add(self, answer: Answer) -> Answer:
        """Add the class that an answer is the first of, and return the answer."""
        self.representatives.append(answer)
        self.keys[answer.key] = answer.key
        return answer


@dataclass(frozen=True, slots=True)
class _LoadedDomain:
    domain: Domain
    # the domain's, cached: the same few answers come up again and again
    canonical: Callable[[str], str]
    spec: PluginSpec
    resolves: bool  # whether the class of an answer is found without comparing it with others
    in_process: bool  # whether texts are read in this process

    @property
    def reference(self) -> Load:
        """What a worker process needs to load it. PluginError where it could not."""
        return plugin_reference("domains", self.spec)


class Annotator:
    """Annotates the traces of a plan's problems."""

    def __init__(
        self, plan: Plan, workers: AnswerWorkers, verifiers: VerifierRunner | None = None
    ) -> None:
        """Load the plan's domains as they are needed. Without `verifiers` there are no verdicts."""
        self._plan = plan
        self._workers = workers
        self._verifiers = verifiers
        self._domains: dict[str, _LoadedDomain] = {}
        self._accepted: dict[tuple[str, str, str], bool | None] = {}

    async def annotate(
        self,
        problem: Problem,
        request: Request,
        trace: Trace,
        classes: Classes,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Trace:
        """Return the trace with answer and verdicts; as it is, if it failed or is no attempt.

        `is_cancelled` tells whether the strategy has cancelled it in the meantime: then no model is
        queried about it any more.
        """
        if _needs_none(request, trace):
            return trace
        loaded = self._domain(problem.domain)
        part = reading(request, trace, self._plan.answers_in_thinking)
        trace = part.with_parts(trace)
        note, answer = "", None
        text = _text_to_read(loaded, part, trace)
        if loaded.in_process:
            text_answer = loaded.domain.extract(text, part.finished)
            canonical = "" if text_answer is None else loaded.canonical(text_answer)
        else:
            read = await self._workers.examine(loaded.reference, text, part.finished)
            text_answer, canonical, note = read.answer, read.canonical or "", read.note
        if text_answer is not None:
            answer, doubt = _at_once(text_answer, canonical, classes), ""
            if answer is None:
                answer, doubt = await self._classified(loaded, text_answer, canonical, classes)
            note = _joined(note, doubt)
        trace = changed(trace, answer=answer, note=_joined(trace.note, note))
        names = self._wanted_verifiers(request, trace, is_cancelled)
        return await self._verified(problem, trace, part.attempt(trace), names) if names else trace

    def annotated_at_once(
        self, problem: Problem, request: Request, trace: Trace, classes: Classes
    ) -> Trace | None:
        """Return what `annotate` returns; None if that would have to wait for something."""
        if _needs_none(request, trace):
            return trace
        loaded = self._domain(problem.domain)
        has_verifiers = self._verifiers is not None and (self._verifiers.names or request.verifiers)
        if has_verifiers or not loaded.in_process:
            return None
        part = reading(request, trace, self._plan.answers_in_thinking)
        trace = part.with_parts(trace)
        text = loaded.domain.extract(_text_to_read(loaded, part, trace), part.finished)
        if text is None:
            return trace
        answer = _at_once(text, loaded.canonical(text), classes)
        return None if answer is None else changed(trace, answer=answer)

    def failed_verifiers(self, request: Request, trace: Trace) -> Sequence[str]:
        """Return the names of the verifiers that failed at a trace, by its note."""
        if self._verifiers is None or not trace.note:
            return ()
        names = self._wanted_verifiers(request, trace, lambda: False)
        return [name for name in names if _verifier_note(name) in trace.note]

    async def verified_again(self, problem: Problem, request: Request, trace: Trace) -> Trace:
        """Return an annotated trace with the verdicts of the verifiers that failed at it."""
        names = self.failed_verifiers(request, trace)
        part = reading(request, trace, self._plan.answers_in_thinking)
        first = min((trace.note.index(_verifier_note(name)) for name in names), default=None)
        bare = changed(trace, note=trace.note[:first].removesuffix("; "))
        return await self._verified(problem, bare, part.attempt(trace), names)

    @property
    def n_verifying(self) -> int:
        """The number of traces that models are verifying."""
        return 0 if self._verifiers is None else self._verifiers.n_open

    def abort(self, request: Request) -> None:
        """Stop querying models about a request's trace, which then lacks those verdicts."""
        if self._verifiers is not None:
            self._verifiers.abort(request)

    def domain(self, name: str) -> Domain:
        """Return a domain by the name that problems of the plan use."""
        return self._domain(name).domain

    async def read_reference(self, domain: str, text: str) -> tuple[str | None, str]:
        """Return the answer that a reference gives, None if its domain cannot read it, and a note.

        The note says why the domain failed, if it did.
        """
        loaded = self._domain(domain)
        read = getattr(loaded.domain, "read_reference", None)
        if read is None or loaded.in_process:
            return (text.strip() if read is None else read(text)) or None, ""
        try:
            call = self._workers.apply(loaded.reference, "read_reference", text, kind=object)
            value = await call
        except CallFailed as failure:
            return None, str(failure)
        return (value, "") if isinstance(value, str) and value else (None, "")

    async def accepts(self, domain: str, answer: str, reference: str) -> bool | None:
        """Tell whether an answer is right by a reference, as `read_reference` returns it.

        None when that was not decided. The same comparison is made once.
        """
        asked = domain, answer, reference
        if asked not in self._accepted:
            accepted = await self._accepts(*asked)
            if len(self._accepted) >= _CACHE_SIZE:
                self._accepted.clear()
            self._accepted[asked] = accepted
        return self._accepted[asked]

    async def _accepts(self, domain: str, answer: str, reference: str) -> bool | None:
        loaded = self._domain(domain)
        accepts = getattr(loaded.domain, "accepts", None)
        if accepts is None:
            equal, doubt = await self.compare(domain, answer, reference)
            return None if doubt and not equal else equal
        if loaded.in_process:
            return bool(accepts(answer, reference))
        try:
            return await self._workers.apply(
                loaded.reference, "accepts", answer, reference, kind=bool
            )
        except CallFailed:
            return None

    async def same(self, domain: str, a: str, b: str) -> bool:
        """Tell whether two answers are equivalent."""
        return (await self.compare(domain, a, b))[0]

    async def compare(self, domain: str, a: str, b: str) -> tuple[bool, str]:
        """Tell whether two answers are equivalent, with the reason if that was not decided."""
        loaded = self._domain(domain)
        if loaded.in_process:
            x, y = loaded.canonical(a), loaded.canonical(b)
            if x == y or (_is_complete(x) and _is_complete(y)):
                return x == y, ""
            if loaded.resolves:
                keys = [await self._key(loaded, form) for form in (x, y)]
                return keys[0][0] == keys[1][0], _joined(keys[0][1], keys[1][1])
        match = await self._workers.match(loaded.reference, a, [b])
        return match.index is not None, "; ".join(u.reason for u in match.undecided)

    def _domain(self, name: str) -> _LoadedDomain:
        if name not in self._domains:
            spec = self._plan.domains.get(name, PluginSpec(name))
            domain = registry.load("domains", spec)
            canonical = functools.lru_cache(_CACHE_SIZE)(domain.canonical)
            self._domains[name] = _LoadedDomain(
                domain, canonical, spec, hasattr(domain, "resolve"), runs_in_process(domain)
            )
        return self._domains[name]

    async def _classified(
        self, loaded: _LoadedDomain, text: str, canonical: str, classes: Classes
    ) -> tuple[Answer, str]:
        """Return the answer with the key of its class, and a note on what was not decided."""
        if loaded.resolves:
            return await self._keyed(loaded, text, canonical, classes)
        if classes.restored:  # pairs are compared with the texts, however their keys were made
            classes.restored.clear()
            if answer := _at_once(text, canonical, classes):
                return answer, ""
        classes.lock = classes.lock or asyncio.Lock()
        async with classes.lock:  # two equal answers compared at once would found two classes
            if canonical in classes.keys:
                return Answer(text, classes.keys[canonical]), ""
            known = list(classes.representatives)
            match = await self._workers.match(loaded.reference, text, [a.text for a in known])
            note = "; ".join(
                f"not decided whether it equals {known[u.index].text!r}: {u.reason}"
                for u in match.undecided
            )
            if match.index is None:
                return classes.add(Answer(text, canonical)), note
            key = classes.keys[canonical] = known[match.index].key
            return Answer(text, key), note

    async def _keyed(
        self, loaded: _LoadedDomain, text: str, canonical: str, classes: Classes
    ) -> tuple[Answer, str]:
        """Do the work of `_classified` for a domain that finds the class of an answer by itself."""
        if classes.restored:
            classes.lock = classes.lock or asyncio.Lock()
            async with classes.lock:
                await self._adopt(loaded, classes)
        if canonical in classes.keys:
            return Answer(text, classes.keys[canonical]), ""
        key, note = await self._key(loaded, canonical)
        if key not in classes.keys:
            classes.add(Answer(text, key))
        classes.keys[canonical] = classes.keys[key]
        return Answer(text, classes.keys[key]), note

    async def _key(self, loaded: _LoadedDomain, canonical: str) -> tuple[str, str]:
        """Return the key of a class, and a note if it is only that of the answer's own text."""
        if _is_complete(canonical):
            return canonical, ""
        resolution = await self._workers.resolve(loaded.reference, canonical)
        if resolution.key is not None:
            return resolution.key, ""
        return canonical, f"{canonical[:80]!r} equals only itself: {resolution.note}"

    async def _canonical(self, loaded: _LoadedDomain, text: str) -> str:
        """Return an answer's normal form; the answer itself where its domain fails."""
        if loaded.in_process:
            return loaded.canonical(text)
        try:
            return await self._workers.apply(loaded.reference, "canonical", text, kind=str)
        except CallFailed:
            return text

    async def _adopt(self, loaded: _LoadedDomain, classes: Classes) -> None:
        """Let the classes of a journal keep their keys for the answers that are theirs today."""
        while classes.restored:
            answer = classes.restored[-1]
            canonical = await self._canonical(loaded, answer.text)
            classes.keys.setdefault(canonical, answer.key)
            if not _is_complete(answer.key):  # made by a version that compared pairs
                key, _ = await self._key(loaded, canonical)
                classes.keys.setdefault(key, answer.key)
            classes.restored.pop()

    def _wanted_verifiers(
        self, request: Request, trace: Trace, is_cancelled: Callable[[], bool]
    ) -> Sequence[str]:
        verifiers = self._verifiers
        if verifiers is None or not (names := request.verifiers or verifiers.names):
            return ()
        # nobody would read what it costs to query a model
        unread = trace.finish is Finish.CANCELLED or is_cancelled()
        if unread or (request.purpose is Purpose.PROBE and not request.verifiers):
            return [name for name in names if not verifiers.queries_models(name)]
        return names

    async def _verified(
        self, problem: Problem, trace: Trace, whole: Trace, names: Sequence[str]
    ) -> Trace:
        """Return the trace with more verdicts, on `whole`: of a continuation, its whole attempt."""
        assert self._verifiers is not None
        verdicts = list(trace.verdicts)
        note, unjudged = trace.note, trace.unjudged
        for name in names:
            outcome = await self._verifiers.run(name, problem, whole)
            unjudged += outcome.usage
            if outcome.verdict is not None:
                verdicts.append(outcome.verdict)
            if outcome.note:
                note = _joined(note, f"{_verifier_note(name)}{outcome.note}")
        return changed(trace, verdicts=tuple(verdicts), note=note, unjudged=unjudged)


def _needs_none(request: Request, trace: Trace) -> bool:
    return trace.finish is Finish.FAILED or request.purpose not in _ANNOTATED


def _text_to_read(loaded: _LoadedDomain, part: Reading, trace: Trace) -> str:
    reads_calls = bool(trace.calls) and getattr(loaded.domain, "reads_calls", False)
    return calls_text(trace.calls) if reads_calls else part.text


def _at_once(text: str, canonical: str, classes: Classes) -> Answer | None:
    """Return the answer with its class where it is known, or certainly a new one."""
    if classes.restored:
        return None
    key = classes.keys.get(canonical)
    if key is not None:
        return Answer(text, key)
    if not _is_complete(canonical) or (classes.lock is not None and classes.lock.locked()):
        return None
    is_new = all(_is_complete(answer.key) for answer in classes.representatives)
    return classes.add(Answer(text, canonical)) if is_new else None


def _verifier_note(name: str) -> str:
    """Return how the note begins on a verifier that gave no verdict."""
    return f"verifier {name}: "


def _joined(note: str, more: str) -> str:
    return f"{note}; {more}" if note and more else note or more


def _is_complete(canonical: str) -> bool:
    return canonical.startswith("=")
