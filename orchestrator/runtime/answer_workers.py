"""Compares and reads answers in processes that can be killed.

The one rule: undecided comparisons are named in the reply, never guessed, and an answer that
reaches its limit is not compared over and over. The processes are those of
`orchestrator.runtime.workers.pool`; `orchestrator.runtime.annotate` decides the class of an answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.engines.reply import encodable
from orchestrator.runtime.workers.child import Apply, Compare, Load, Read, Reading
from orchestrator.runtime.workers.pool import CallFailed, Cause, WorkerPool

_CACHE_SIZE = 65_536  # comparisons, and keys: some 20 MB of short answers
# Different partners; an answer that sympy cannot parse would otherwise cost a limit for each class.
_N_BLAMED = 2
_N_KILLS = 2  # how often a call is made again because something else killed its process
_MIN_MEMORY_BYTES = 256 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Undecided:
    """A representative that could not be compared, and why. It counts as not equivalent."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClassMatch:
    """`index` of the first equivalent representative, or None.

    `undecided`: those before it that were not decided.
    """

    index: int | None
    undecided: tuple[Undecided, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """What a domain read. Both None: it abstained, or `note` says why it could not read."""

    answer: str | None
    canonical: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The key of an answer's class; None if it was not found, for the reason in `note`."""

    key: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Comparison:
    equal: bool
    error: str = ""
    is_killed: bool = False


class AnswerWorkers:
    """Compares and reads answers. Belongs to one event loop; not for use from several threads.

    `limit_seconds` bounds one comparison or one reading, `memory_bytes` the address space of one
    process.
    """

    def __init__(
        self, *, n_workers: int = 2, limit_seconds: float = 10.0, memory_bytes: int = 2 << 30
    ) -> None:
        """Start nothing yet. ValueError for limits under which no process could work."""
        if n_workers < 1 or limit_seconds <= 0 or memory_bytes < _MIN_MEMORY_BYTES:
            raise ValueError(
                "AnswerWorkers needs n_workers >= 1, limit_seconds > 0 and memory_bytes >= 256 MiB"
            )
        self._limit_seconds = limit_seconds
        self._pool = WorkerPool(n_workers, memory_bytes)
        self._known: OrderedDict[tuple[Load, str, str], _Comparison] = OrderedDict()
        self._partners: dict[tuple[Load, str], set[str]] = {}
        self._keys: OrderedDict[tuple[Load, str], Resolution] = OrderedDict()

    async def match(self, domain: Load, answer: str, representatives: Sequence[str]) -> ClassMatch:
        """Return the first representative that is equivalent to `answer`, and the undecided ones.

        A pair that reaches its limit costs its process; the pairs after it are compared in a new
        one. PluginError when the domain does not load.
        """
        answer = encodable(answer)
        undecided: list[Undecided] = []
        comparisons: list[_Comparison] = []
        n_kills = 0
        pairs = [(domain, answer, encodable(text)) for text in representatives]
        while len(comparisons) < len(pairs):
            known = self._recall(*pairs[len(comparisons)])
            new = [known] if known else await self._compare(pairs[len(comparisons) :])
            if new and new[-1].is_killed and n_kills < _N_KILLS:  # of its process, by others
                n_kills += 1
                new = new[:-1]
            for index, comparison in enumerate(new, len(comparisons)):
                if comparison.equal:
                    return ClassMatch(index, tuple(undecided))
                if comparison.error:
                    undecided.append(Undecided(index, comparison.error))
            comparisons += new
        return ClassMatch(None, tuple(undecided))

    async def resolve(self, domain: Load, answer: str) -> Resolution:
        """Return the key of the answer's class, or why there is none.

        An answer is resolved once: what reached a limit is not tried again, unless the memory may
        have been used by earlier calls. PluginError when the domain does not load.
        """
        answer = encodable(answer)
        if (known := self._keys.get((domain, answer))) is not None:
            self._keys.move_to_end((domain, answer))
            return known
        resolution = await self._resolve(domain, answer)
        self._keys[domain, answer] = resolution
        if len(self._keys) > _CACHE_SIZE:
            self._keys.popitem(last=False)
        return resolution

    async def _resolve(self, domain: Load, answer: str) -> Resolution:
        n_kills = 0
        while True:
            async with self._pool.worker(domain) as worker:
                is_used = worker.n_calls > 0
                try:
                    call = Apply("resolve", (answer,))
                    key = await worker.call(call, object, self._limit_seconds)
                    if isinstance(key, str):
                        return Resolution(key)
                    return Resolution(None, f"returned {key!r:.80}, not a str")
                except CallFailed as failure:
                    n_kills += failure.cause is Cause.KILL
                    is_lost = failure.cause in (Cause.MEMORY, Cause.DEATH) and is_used
                    if not is_lost and not 0 < n_kills <= _N_KILLS:
                        return Resolution(None, str(failure))

    async def examine(self, domain: Load, text: str, finished: bool) -> Examined:
        """Return what the domain reads in a text, with its canonical form.

        PluginError when the domain does not load.
        """
        try:
            call = Read(encodable(text), finished)
            reading = await self._pool.call(domain, call, Reading, self._limit_seconds)
        except CallFailed as failure:
            return Examined(None, None, str(failure))
        return Examined(reading.answer, reading.canonical)

    async def apply(self, domain: Load, method: str, *texts: str, kind: type[T]) -> T:
        """Return the value, a `kind`, of an optional method of a domain.

        CallFailed when the call fails, reaches its limit or returns another type; PluginError when
        the domain does not load.
        """
        call = Apply(method, tuple(map(encodable, texts)))
        value = await self._pool.call(domain, call, object, self._limit_seconds)
        if not isinstance(value, kind):
            reason = f"returned {value!r:.80}, not a {kind.__name__}"
            raise CallFailed(reason, Cause.RAISED)
        return value

    async def aclose(self) -> None:
        """Kill all processes and wait for their end. Calls that still run see their process end."""
        await self._pool.aclose()

    async def _compare(self, pairs: Sequence[tuple[Load, str, str]]) -> list[_Comparison]:
        """Return comparisons in order, up to one that is equal, known, or cost the process."""
        comparisons: list[_Comparison] = []
        async with self._pool.worker(pairs[0][0]) as worker:
            for domain, answer, representative in pairs:
                if comparisons and self._recall(domain, answer, representative):
                    break
                try:
                    call = Compare(answer, representative)
                    comparison = _Comparison(await worker.call(call, bool, self._limit_seconds))
                except CallFailed as failure:
                    comparison = _Comparison(False, str(failure))
                    if failure.cause in (Cause.TIME, Cause.MEMORY):
                        self._blame(domain, answer, representative)
                    if failure.cause in (Cause.DEATH, Cause.KILL):
                        is_killed = failure.cause is Cause.KILL
                        return [*comparisons, replace(comparison, is_killed=is_killed)]
                self._remember(domain, answer, representative, comparison)
                comparisons.append(comparison)
                if comparison.equal or not worker.is_alive:
                    break
        return comparisons

    def _recall(self, domain: Load, answer: str, representative: str) -> _Comparison | None:
        pair = (domain, answer, representative)
        if pair in self._known:
            self._known.move_to_end(pair)
            return self._known[pair]
        if any(
            len(self._partners.get((domain, text), ())) >= _N_BLAMED
            for text in (answer, representative)
        ):
            return _Comparison(
                False, f"one of the two answers has reached a limit {_N_BLAMED} times before"
            )
        return None

    def _blame(self, domain: Load, answer: str, representative: str) -> None:
        """Record who reached a limit with whom: who does so with several others is at fault."""
        self._partners.setdefault((domain, answer), set()).add(representative)
        self._partners.setdefault((domain, representative), set()).add(answer)

    def _remember(
        self, domain: Load, answer: str, representative: str, comparison: _Comparison
    ) -> None:
        self._known[domain, answer, representative] = comparison
        if len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)
