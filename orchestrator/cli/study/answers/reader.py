"""Reads texts and compares answers as a job does, and finds where an answer stands.

Everything that may hang runs in worker processes, with a job's limits. Not covered: which texts
(`command`) and display (`orchestrator.cli.view.answers`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from orchestrator.cli.view.answers import Comparison, Place, Reading, ReferenceReading
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import runs_in_process
from orchestrator.core.values import PluginSpec, Problem, Request, Trace
from orchestrator.kit.answers import thinking
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.workers.pool import CallFailed, plugin_reference


@dataclass(frozen=True, slots=True)
class ReplyText:
    """A text to read, as an attempt at the problem `group`; `recorded` is the answer in a journal.

    `trace` has the text, how it ended, and what of it is thinking, if an engine has reported that.
    `references` are right answers as they were written.
    """

    name: str
    trace: Trace
    domain: str
    group: str = ""
    references: tuple[str, ...] = ()
    recorded: str | None = None


def readings(plan: Plan, texts: Sequence[ReplyText]) -> list[Reading]:
    """Return what is read in each text, by the plan's domains."""

    async def read() -> list[Reading]:
        async with aclosing(_workers()) as workers:
            reader = _Reader(plan, workers)
            return [await reader.reading(text) for text in texts]

    return asyncio.run(read())


def comparison(plan: Plan, a: str, b: str) -> Comparison:
    """Return whether two answers are one in the plan's domain, and why."""

    async def compared() -> Comparison:
        async with aclosing(_workers()) as workers:
            return await _Reader(plan, workers).comparison(plan.domain, a, b)

    return asyncio.run(compared())


def _workers() -> AnswerWorkers:
    return AnswerWorkers(n_workers=1, limit_seconds=Execution().checker_seconds)


class _Reader:
    """Reads and describes answers by the domains of a plan."""

    def __init__(self, plan: Plan, workers: AnswerWorkers) -> None:
        self._plan = plan
        self._workers = workers
        self._annotator = Annotator(replace(plan, verifiers=()), workers)
        self._classes: dict[str, Classes] = {}

    async def reading(self, text: ReplyText) -> Reading:
        """Return what the domain reads in a text, in its class among the texts of its group."""
        part = thinking.reading(Request(), text.trace, self._plan.answers_in_thinking)
        problem = Problem(text.group or "text", "", text.domain)
        classes = self._classes.setdefault(text.group, Classes())
        trace = await self._annotator.annotate(problem, Request(), text.trace, classes)
        whole = part.whole or thinking.split(part.text)
        note, answer, kind = trace.note, None if trace.answer is None else trace.answer.text, ""

        async def read(piece: str, finished: bool) -> str | None:
            return await self._extract(text.domain, piece, finished)

        if answer is not None:
            kind, doubt = await self._described(text.domain, answer)
            note = "; ".join(filter(None, (note, doubt)))
        elif whole.thinking and not part.text.strip():
            note = "the text ends inside its thinking, so there is no reply to read"
        elif not part.finished and await read(part.text, True) is not None:
            note = "the text was cut off before it gave an answer explicitly"
        return Reading(
            name=text.name,
            problem=text.group,
            domain=text.domain,
            answer=answer,
            place=None if answer is None else await _place(part.text, answer, read),
            type=kind,
            key=None if trace.answer is None else trace.answer.key,
            note=note,
            n_thinking_chars=len(whole.thinking_text),
            references=tuple(
                [await self._reference(text.domain, answer, r) for r in text.references]
            ),
            recorded=text.recorded,
        )

    async def comparison(self, domain: str, a: str, b: str) -> Comparison:
        """Return two answers' types and keys, whether they are one, and why."""
        keys = [await self._key(domain, answer) for answer in (a, b)]
        kinds = [(await self._described(domain, answer))[0] for answer in (a, b)]
        equal, doubt = await self._annotator.compare(domain, a, b)
        return Comparison(domain, (a, b), (kinds[0], kinds[1]), (keys[0], keys[1]), equal, doubt)

    async def _extract(self, domain: str, text: str, finished: bool) -> str | None:
        loaded = self._annotator.domain(domain)
        if runs_in_process(loaded):
            return loaded.extract(text, finished)
        load = plugin_reference("domains", self._spec(domain))
        return (await self._workers.examine(load, text, finished)).answer

    async def _described(self, domain: str, answer: str) -> tuple[str, str]:
        """Return the type and value of an answer in one line, and why there is none."""
        if not hasattr(self._annotator.domain(domain), "describe"):
            return "", ""
        return await self._applied(domain, "describe", answer)

    async def _key(self, domain: str, answer: str) -> str:
        has_keys = hasattr(self._annotator.domain(domain), "resolve")
        key, doubt = await self._applied(domain, "resolve" if has_keys else "canonical", answer)
        return key or doubt

    async def _applied(self, domain: str, method: str, answer: str) -> tuple[str, str]:
        load = plugin_reference("domains", self._spec(domain))
        try:
            return await self._workers.apply(load, method, answer, kind=str), ""
        except CallFailed as failure:
            return "", f"{method} of the domain failed: {failure}"

    async def _reference(self, domain: str, answer: str | None, text: str) -> ReferenceReading:
        read, note = await self._annotator.read_reference(domain, text)
        if read is None or answer is None:
            return ReferenceReading(text, read, None if read is None else False, note)
        right = await self._annotator.accepts(domain, answer, read)
        if right is None:
            _, doubt = await self._annotator.compare(domain, answer, read)
            note = doubt or "`accepts` of the domain failed"
        return ReferenceReading(text, read, right, note)

    def _spec(self, domain: str) -> PluginSpec:
        return self._plan.domains.get(domain, PluginSpec(domain))


async def _place(
    text: str, answer: str, read: Callable[[str, bool], Awaitable[str | None]]
) -> Place:
    """Return the line that gives the answer.

    An explicit answer is given by the last line without which a cut-off text would not give it; the
    search takes about 2 log2(lines) readings. Any other answer was read at the end of the text.
    """
    lines = text.split("\n")
    is_explicit = await read(text, False) == answer
    without, last = 0, len(lines)  # the first `last` lines give the answer
    step = 1
    while is_explicit and last - without > 1:
        middle = max(without + 1, last - step) if not without else (without + last) // 2
        if await read("\n".join(lines[:middle]), False) == answer:
            last, step = middle, 2 * step
        else:
            without = middle
    while last > 1 and not lines[last - 1].strip():
        last -= 1
    line = lines[last - 1].strip()
    found = list(re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", line))
    return Place(last, is_explicit, line, found[-1].start() + 1 if found else None)
