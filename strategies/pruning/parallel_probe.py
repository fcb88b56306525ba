"""Parallel-Probe: attempts are probed in rounds until the majority is stable.

Code: zhengkid/Parallel-Probe. Rounds are as in the code released with AutoTTS (class
Parallel_Probe): every running attempt generates one interval and is probed, and the majority of the
latest answers leads; ties are won by the answer of the earliest attempt. From the 2nd round after
`warm_up`, a running attempt that has differed from the leader `patience` times in a row is dropped
and no longer votes. Exploration ends when the leader has stayed the same `stable` times in a row,
or when no attempt runs. The defaults are those of the published table.

Where we differ: a probe without an answer does not vote (in the released code it votes "ERR"). At
the end, each running attempt gives its answer once more, in a probe with the purpose AGGREGATE, so
a selector can vote over all attempts; the released code counts the last probes instead.

If a budget ends the exploration, no last probes are made: then only attempts that gave an answer by
themselves vote, and without any the problem abstains, even if probes gave answers. A round costs
two traces per running attempt.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, ask_each, drop, next_trace, submit
from orchestrator.core.values import Finish, Problem, Purpose, Request, Trace
from strategies.pruning.probing import ProbeOptions, StretchedAttempt


@dataclass(frozen=True, slots=True)
class ParallelProbe(ProbeOptions):
    """Probes attempts in rounds, drops deviating ones, and stops when stable."""

    n: Annotated[int, Meta(ge=1, description="Number of attempts.")] = 64
    stable: Annotated[
        int, Meta(ge=1, description="Rounds in a row that the leader must stay the same.")
    ] = 40
    patience: Annotated[
        int, Meta(ge=1, description="Contrary probes in a row that drop an attempt.")
    ] = 7
    warm_up: Annotated[int, Meta(ge=0, description="Rounds before any attempt is dropped.")] = 15
    interval: Annotated[int, Meta(ge=1, description="Tokens of an attempt in one round.")] = 500

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run rounds until the leader is stable or nothing runs; then collect the last answers."""
        first = yield from submit([Request(checkpoint=self.interval)] * self.n)
        attempts = [_ProbedAttempt([ordinal]) for ordinal in first]
        yield from self._round(attempts)
        leader: str | None = None
        n_stable, n_rounds = 0, 0
        while n_stable < self.stable and (running := [a for a in attempts if a.runs]):
            granted = yield from submit(
                [Request(parent=a.ordinal, checkpoint=self.interval) for a in running]
            )
            if len(granted) < len(running):  # the budget in traces is used up
                return
            for attempt, ordinal in zip(running, granted, strict=True):
                attempt.stretches.append(ordinal)
            yield from self._round(attempts)
            if n_rounds >= self.warm_up and len(attempts) > 1:
                attempts = yield from self._without_deviants(attempts, _majority(attempts))
            n_rounds += 1
            before, leader = leader, _majority(attempts)
            n_stable = n_stable + 1 if leader is not None and leader == before else 0
        yield from self._probe_all([a for a in attempts if a.runs], Purpose.AGGREGATE)

    def _round(self, attempts: Sequence[_ProbedAttempt]) -> Steps:
        """Wait for the running stretches, and probe the attempts that did not end with them."""
        for attempt in attempts:
            if attempt.runs:
                attempt.take((yield from next_trace((attempt.ordinal,))))
        running = [a for a in attempts if a.runs]
        probes = yield from self._probe_all(running, Purpose.PROBE)
        for attempt, probe in zip(running, probes, strict=False):
            if probe.finish is not Finish.FAILED:
                attempt.key = probe.answer.key if probe.answer else None

    def _probe_all(
        self, attempts: Sequence[_ProbedAttempt], purpose: Purpose
    ) -> Generator[Command, Reply, list[Trace]]:
        """Probe these attempts and return the probes' traces, in order."""
        return (yield from ask_each([self.probe(a.ordinal, purpose) for a in attempts]))

    def _without_deviants(
        self, attempts: Sequence[_ProbedAttempt], leader: str | None
    ) -> Generator[Command, Reply, list[_ProbedAttempt]]:
        """Drop the running attempts that have differed too often; return the others."""
        others = []
        for attempt in attempts:
            if attempt.runs:
                attempt.n_contrary = 0 if attempt.key == leader else attempt.n_contrary + 1
            if attempt.runs and attempt.n_contrary >= self.patience:
                why = f"its last {attempt.n_contrary} probes differed from the majority"
                yield from drop(attempt.stretches, reason=why)
            else:
                others.append(attempt)
        return others


@dataclass(slots=True)
class _ProbedAttempt(StretchedAttempt):
    runs: bool = True
    key: str | None = None  # its latest answer

    def take(self, trace: Trace) -> None:
        """Record a stretch that ended."""
        self.runs = trace.finish is Finish.RULE
        if not self.runs and (trace.answer is not None or trace.finish is not Finish.LENGTH):
            self.key = trace.answer.key if trace.answer else None


def _majority(attempts: Sequence[_ProbedAttempt]) -> str | None:
    counts = Counter(a.key for a in attempts if a.key is not None)
    # the first counted wins a tie, as in the released code
    return counts.most_common(1)[0][0] if counts else None
