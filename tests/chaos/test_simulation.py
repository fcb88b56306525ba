"""Simulated histories of jobs hold every invariant, and break one where the product is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cases
import pytest
from simulation.history import play

from orchestrator.core.session import Session
from orchestrator.core.values import Trace, changed
from orchestrator.engines.circuit_breaker import CircuitBreaker
from orchestrator.engines.metered import MeteredEngine
from orchestrator.jobs.journal import Arrived, BatchWriter, Concluded, Event, Journal
from orchestrator.runtime.driver import Driver, serving
from orchestrator.runtime.driver.resumption import Resumption

N_HISTORIES = int(os.environ.get("LEADLINE_HISTORIES", "300"))
FIRST = 1_000_000  # the campaign begins at 0


def _play(seeds: Iterable[int]) -> None:
    for seed in seeds:
        play(seed)


def test_every_strategy_has_a_case() -> None:
    assert cases.packaged_strategies() <= cases.CASES.keys()


def test_forty_histories_hold_every_invariant() -> None:
    _play(range(FIRST, FIRST + 40))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_many_histories_hold_every_invariant(part: int) -> None:
    """LEADLINE_HISTORIES sets how many; `make chaos` plays more."""
    _play(range(FIRST + part, FIRST + N_HISTORIES, 5))


def test_a_history_follows_from_its_seed_alone() -> None:
    """Also in a process with other hashes of texts, and so another order of sets."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from simulation.history import play; "
        "print(*(play(seed).digest for seed in range(6)))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [play(seed).digest for seed in range(6)]


def _forgets_a_trace(self: Journal, events: Sequence[Event], replacing: Any = ()) -> None:
    kept = [e for e in events if not (isinstance(e, Arrived) and e.trace.ordinal == 2)]
    _append(self, kept, replacing)


async def _pairs_wrongly(engine: Any, request: Any) -> Trace:
    other = changed(request, seed=request.seed + (request.ordinal == 1))
    return await _checked_reply(engine, other)


def _counts_twice(self: MeteredEngine, request: Any, reply: Any) -> None:
    _count(self, request, reply)
    _count(self, request, reply)


class _Shorter:
    """A journal that has forgotten the last event of every problem."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def events(self, problem_id: str) -> list[Event]:
        return list(self._journal.events(problem_id))[:-1]


def _forgets_an_event(self: Resumption, opened: Any) -> Any:
    journal = self._journal
    self._journal = _Shorter(journal)  # type: ignore[assignment]
    try:
        return _take_up(self, opened)
    finally:
        self._journal = journal


def _never_leaves(self: CircuitBreaker, epoch: int) -> None:
    if self.is_closed:
        _leave(self, epoch)


def _delivers_first(self: Driver, batch: Sequence[Event]) -> None:
    """Write nothing: it is delivered, and written with the next batch."""
    late = getattr(self, "late", [])
    self.late = list(batch)  # type: ignore[attr-defined]
    _write(self, late)


def _forgets_a_batch(self: BatchWriter) -> Sequence[Event]:
    _close(self)
    return ()


def _sends_again(self: Session) -> list[Any]:
    return [*_owed(self), *_owed(self)[:1]]


def _wakes_nobody(self: Driver, event: Event) -> None:
    self._events.append(event)
    if not isinstance(event, Concluded):
        self._wake.set()


_append, _take_up = Journal.append, Resumption.take_up
_checked_reply = serving.checked_reply
_count, _leave, _write = MeteredEngine._count, CircuitBreaker.leave, Driver._write
_close, _owed = BatchWriter.close, Session.owed
# what is broken, and a part of what is found
BREAKS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "a trace is not journalled": (Journal, "append", _forgets_a_trace, "before it was journalled"),
    "a reply is another request's": (serving, "checked_reply", _pairs_wrongly, "is .*, not"),
    "tokens are counted twice": (MeteredEngine, "_count", _counts_twice, "counted as spent"),
    "a resume misses an event": (Resumption, "take_up", _forgets_an_event, "generated again"),
    "a probe is never over": (CircuitBreaker, "leave", _never_leaves, "no end"),
    "delivery before the journal": (Driver, "_write", _delivers_first, "before it was journalled"),
    "a cancelled batch is lost": (BatchWriter, "close", _forgets_a_batch, "generated again"),
    "a request is sent twice": (Session, "owed", _sends_again, "in flight already"),
    "a wake-up is lost": (Driver, "_post", _wakes_nobody, "no end"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, that no seed fails would mean nothing."""
    owner, name, broken, found = BREAKS[what]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(Exception, match=found):
        _play(range(200))
