"""Parallel-Probe: attempts run and are probed in step; deviants are dropped, a stable majority ends
it (code: zhengkid/Parallel-Probe).

As in the code released with AutoTTS (class Parallel_Probe), round by round: every running attempt
makes one interval and is probed, and the majority of the latest answers leads; on a tie the answer
of the earliest attempt. From the 2nd round after `warm_up` on, a running attempt that has differed
from the leader `patience` times in a row is dropped, and no longer votes. It ends when the leader
has stayed the same `stable` times in a row, or when nothing runs. The defaults are those of its
published table.

Where we differ: a probe without an answer is no vote (there it is the answer "ERR"). At the end
each attempt that still runs is asked for its answer once more, by a probe with the purpose
AGGREGATE, so that a selector can vote over all; there the last probes are counted.

A budget that ends it leaves nothing for those last probes: then only attempts that have stated an
answer by themselves vote, and without any it abstains, whatever its probes said. A round takes two
traces of every running attempt.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.steps import Command, Reply, Steps, drop, next_trace, submit
from orchestrator.core.values import Capability, Finish, Problem, Purpose, Request, Trace


@dataclass(frozen=True, slots=True)
class ParallelProbe:
    """Runs `n` attempts in stretches of `interval` tokens."""

    n: int = 64
    stable: int = 40  # times in a row that the leader must stay the same
    patience: int = 7  # contrary probes in a row that drop an attempt
    warm_up: int = 15  # rounds before any is dropped
    interval: int = 500  # tokens of a round
    suffix: str = "\n\nThe final answer is"
    probe_tokens: int = 16
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE})

    def __post_init__(self) -> None:
        for name in ("n", "stable", "patience", "interval", "probe_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1 is needed")
        if self.warm_up < 0:
            raise ValueError(f"warm_up = {self.warm_up}: 0 rounds or more are needed")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Go round by round until the leader is stable or nothing runs, then ask what still runs
        for its answer.
        """
        first = yield from submit([Request(checkpoint=self.interval)] * self.n)
        alive = [_Attempt([ordinal]) for ordinal in first]
        yield from self._round(alive)
        leader: str | None = None
        n_stable, n_rounds = 0, 0
        while alive and n_stable < self.stable and any(a.runs for a in alive):
            running = [a for a in alive if a.runs]
            granted = yield from submit(
                [Request(parent=a.ordinal, checkpoint=self.interval) for a in running]
            )
            # the budget in traces is used up: nobody can be asked any more
            if len(granted) < len(running):
                return
            for attempt, ordinal in zip(running, granted, strict=True):
                attempt.stretches.append(ordinal)
            yield from self._round(alive)
            if n_rounds >= self.warm_up and len(alive) > 1:
                alive = yield from self._kept(alive, _majority(alive))
            n_rounds += 1
            before, leader = leader, _majority(alive)
            n_stable = n_stable + 1 if leader is not None and leader == before else 0
        yield from self._asked([a for a in alive if a.runs], Purpose.AGGREGATE)

    def _round(self, alive: Sequence[_Attempt]) -> Steps:
        """Wait for the stretches that run, and probe those that did not end with them."""
        for attempt in alive:
            if attempt.runs:
                attempt.take((yield from next_trace((attempt.ordinal,))))
        running = [a for a in alive if a.runs]
        probes = yield from self._asked(running, Purpose.PROBE)
        for attempt, probe in zip(running, probes, strict=False):
            if probe.finish is not Finish.FAILED:
                attempt.key = probe.answer.key if probe.answer else None

    def _asked(
        self, attempts: Sequence[_Attempt], purpose: Purpose
    ) -> Generator[Command, Reply, list[Trace]]:
        """Return what these attempts answer when asked now."""
        ask = [
            Request(
                parent=a.ordinal,
                suffix=self.suffix,
                max_new_tokens=self.probe_tokens,
                purpose=purpose,
            )
            for a in attempts
        ]
        ordinals = yield from submit(ask)
        traces = []
        for ordinal in ordinals:
            traces.append((yield from next_trace((ordinal,))))  # noqa: PERF401 - a comprehension cannot yield
        return traces

    def _kept(
        self, alive: Sequence[_Attempt], leader: str | None
    ) -> Generator[Command, Reply, list[_Attempt]]:
        """Drop the running attempts that have differed from the leader too often; return the
        others.
        """
        kept = []
        for attempt in alive:
            if attempt.runs:
                attempt.n_contrary = 0 if attempt.key == leader else attempt.n_contrary + 1
            if attempt.runs and attempt.n_contrary >= self.patience:
                yield from drop(attempt.stretches)
            else:
                kept.append(attempt)
        return kept


@dataclass(slots=True)
class _Attempt:
    stretches: list[int]  # their ordinals, the latest last
    runs: bool = True
    key: str | None = None  # its latest answer
    n_contrary: int = 0

    @property
    def ordinal(self) -> int:
        """That of its latest stretch."""
        return self.stretches[-1]

    def take(self, trace: Trace) -> None:
        """Note a stretch that ended."""
        self.runs = trace.finish is Finish.RULE
        if not self.runs and (trace.answer is not None or trace.finish is not Finish.LENGTH):
            self.key = trace.answer.key if trace.answer else None


def _majority(alive: Sequence[_Attempt]) -> str | None:
    counts = Counter(a.key for a in alive if a.key is not None)
    # first counted wins a tie, as in the released code
    return counts.most_common(1)[0][0] if counts else None
