"""The contract of a sink can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from orchestrator import ProblemFinished, RunEnded, RunStarted
from orchestrator.runtime.sinks.events import Event, Receive
from orchestrator.testing import check_sink
from orchestrator.testing import sinks as contract


@dataclass(frozen=True)
class Sound:
    """A sound sink, to break."""

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        yield self.receive

    def receive(self, events: Sequence[Event]) -> None: ...


@dataclass(frozen=True)
class OnlyAnswered(Sound):
    def receive(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ProblemFinished):
                assert event.result.answer is not None


@dataclass(frozen=True)
class ExpectsAccuracy(Sound):
    def receive(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, RunEnded):
                assert event.accuracy is not None


@dataclass(frozen=True)
class Changes(Sound):
    def receive(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ProblemFinished):
                event.dropped.clear()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class WantsTexts(Sound):
    events: ClassVar[Any] = (str,)


@dataclass(frozen=True)
class LeavesAThread(Sound):
    def receive(self, events: Sequence[Event]) -> None:
        threading.Thread(target=RELEASE.wait).start()


RELEASE = threading.Event()


def test_a_sound_sink_passes() -> None:
    check_sink(Sound())


@pytest.mark.parametrize(
    ("sink", "rule"),
    [
        (OnlyAnswered(), "any run"),
        (ExpectsAccuracy(), "any run"),
        (Changes(), "pure"),
        (WantsTexts(), "events"),
        (LeavesAThread(), "nothing outlives its run"),
    ],
)
def test_a_broken_sink_is_caught_by_its_rule(
    sink: Any, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot fail is worth nothing."""
    RELEASE.clear()
    monkeypatch.setattr(contract, "_JOIN_SECONDS", 0.0)
    try:
        with pytest.raises(AssertionError, match=rf"^{rule}: "):
            check_sink(sink)
    finally:
        RELEASE.set()
