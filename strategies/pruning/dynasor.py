"""Dynasor-CoT: an attempt ends once its probes have settled on an answer.

Fu et al., arXiv 2412.20993; code: hao-ai-lab/Dynasor. Every `interval` tokens an attempt is probed
while it continues. When the last `stable` probes agree on one answer, and none of them contains a
word of doubt, the attempt is stopped and votes for that answer. The released effort levels are
pairs of (stable, interval): mild (8, 64), low (5, 64), mid (3, 64), high (2, 64), crazy (2, 32).

Where we differ: the released code runs one attempt and ends it with the probed answer in a box;
here `n` independent attempts run concurrently and vote. A probe that fails or is cancelled restarts
the count.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps, drop, next_trace, submit
from orchestrator.core.values import Finish, Problem, Request, Trace
from orchestrator.kit.compose import gather
from strategies.pruning.probing import ProbeOptions, ProbeSuffix, ProbeTokens


@dataclass(frozen=True, slots=True)
class Dynasor(ProbeOptions):
    """Ends each attempt once its probes agree; for long reasoning."""

    n: Annotated[int, Meta(ge=1, description="Number of attempts.")] = 8
    stable: Annotated[
        int,
        Meta(ge=1, description="Number of probes in a row that must agree without doubt."),
    ] = 3
    interval: Annotated[int, Meta(ge=1, description="Tokens between two probes.")] = 64
    doubts: Annotated[
        tuple[str, ...],
        Meta(
            description="Words that show doubt in a probe, matched inside words, ignoring case; "
            "the defaults are the released ones."
        ),
    ] = ("wait", "hold", "but", "okay", "no", "hmm")
    suffix: ProbeSuffix = (
        "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
    )
    probe_tokens: ProbeTokens = 20

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run the attempts concurrently."""
        yield from gather(self._attempt() for _ in range(self.n))

    def _attempt(self) -> Steps:
        """Run one attempt in stretches, with a probe next to each but the first."""
        running = yield from submit([Request(checkpoint=self.interval)])
        settled: list[str] = []  # the latest probes' answers, as far as they agree
        while True:
            stretch = yield from next_trace(running)
            if stretch.finish is not Finish.RULE:
                return
            continuation = Request(parent=stretch.ordinal, checkpoint=self.interval)
            granted = yield from submit([continuation, self.probe(stretch.ordinal)])
            running = granted[:1]
            for ordinal in granted[1:]:  # none if the budget has ended: the attempt is not probed
                answer = self._answer((yield from next_trace((ordinal,))))
                agreeing = settled if settled[-1:] == [answer] else []
                settled = [] if answer is None else [*agreeing, answer]
                if len(settled) >= self.stable:
                    why = f"its last {self.stable} probes agreed, without a word of doubt"
                    yield from drop(running, heir=ordinal, reason=why)
                    return

    def _answer(self, probe: Trace) -> str | None:
        """Return the class of the answer that a probe states without doubt."""
        doubtful = any(word in probe.text.lower() for word in self.doubts)
        return None if probe.lost or doubtful or probe.answer is None else probe.answer.key
