"""Dynasor-CoT: an attempt whose probes have settled on an answer ends with it (Fu et al., arXiv
2412.20993; code: hao-ai-lab/Dynasor).

Every `interval` tokens an attempt is probed, beside its own continuation. When the last `stable`
probes state one answer, and none of them writes a word of doubt, the attempt is stopped and votes
for that answer. The released effort levels are pairs of (stable, interval): mild (8, 64), low (5,
64), mid (3, 64), high (2, 64), crazy (2, 32).

Where we differ: the released code is for one attempt, which it ends with the probed answer in a
box; here `n` attempts run side by side, each for itself, and vote. A probe that fails or is
cancelled begins the count anew.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.steps import Steps, drop, next_trace, submit
from orchestrator.core.values import Capability, Finish, Problem, Purpose, Request, Trace
from orchestrator.kit.compose import gather


@dataclass(frozen=True, slots=True)
class Dynasor:
    """Runs `n` attempts, each until it ends or its probes have settled."""

    n: int = 8
    stable: int = 3  # probes in a row that state one answer without doubt
    interval: int = 64  # tokens between two probes
    # as released: looked for as parts of words, whatever their case
    doubts: tuple[str, ...] = ("wait", "hold", "but", "okay", "no", "hmm")
    suffix: str = (
        "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
    )
    probe_tokens: int = 20
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE})

    def __post_init__(self) -> None:
        for name in ("n", "stable", "interval", "probe_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1 is needed")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run the attempts side by side."""
        yield from gather(self._attempt() for _ in range(self.n))

    def _attempt(self) -> Steps:
        """Run one attempt in stretches, with a probe beside each but the first."""
        running = yield from submit([Request(checkpoint=self.interval)])
        settled: list[str] = []  # what the latest probes stated, as far as they agree
        while True:
            stretch = yield from next_trace(running)
            if stretch.finish is not Finish.RULE:
                return
            probe = Request(
                parent=stretch.ordinal,
                suffix=self.suffix,
                max_new_tokens=self.probe_tokens,
                purpose=Purpose.PROBE,
            )
            granted = yield from submit(
                [Request(parent=stretch.ordinal, checkpoint=self.interval), probe]
            )
            running = granted[:1]
            for ordinal in granted[1:]:  # none when the budget ended: the attempt goes on without
                stated = self._stated((yield from next_trace((ordinal,))))
                settled = (
                    []
                    if stated is None
                    else [*(settled if settled[-1:] == [stated] else []), stated]
                )
                if len(settled) >= self.stable:
                    yield from drop(running, heir=ordinal)
                    return

    def _stated(self, probe: Trace) -> str | None:
        """Return the class of the answer that a probe states without doubt."""
        doubtful = any(word in probe.text.lower() for word in self.doubts)
        gone = probe.finish in (Finish.FAILED, Finish.CANCELLED)
        return None if gone or doubtful or probe.answer is None else probe.answer.key
