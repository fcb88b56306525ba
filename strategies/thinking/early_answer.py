"""Early answering by entropy (EAT; Wang et al., arXiv 2509.26522; github.com/xidulu/EAT): thinking
ends when it no longer changes anything.

After every paragraph of its thinking a trace is probed: the tag that would end it, a line break,
and the entropy of the token that would come then. As thinking goes on that entropy falls and
settles; when its variance, as an exponential moving average, is below a threshold, thinking is
closed and the trace answers.

Where we differ: the entropy is that of the 20 likeliest tokens and the rest as one
(`mean_entropy`); averages and warm-up are those of the released code, which looks at finished
traces afterwards, where here generation does end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass, field

from orchestrator.core.steps import Command, Reply, Steps, ask
from orchestrator.core.values import Capability, Delimiter, Finish, Problem, Purpose, Request
from orchestrator.kit.compose import gather
from orchestrator.kit.thinking import ThinkingModel, thinking_needs


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """Thinks `n` traces of at most `thinking` tokens, probed after every `delimiter`; each has
    `answer` tokens to answer.

    A trace answers when the variance of its probes' entropies, in nats squared, is below
    `variance`; a new probe has the weight `timescale` in it, and `warm_up` probes are let pass.
    `end` is the model's tag, `probe` what follows it in a probe, `closing` in the answer.
    """

    n: int = 8
    variance: float = 1e-4
    timescale: float = 0.2
    warm_up: int = 25
    thinking: int = 8192
    answer: int = 1024
    delimiter: str = "\n\n"
    end: str = "</think>"
    probe: str = "\n"
    closing: str = "\n\nFinal Answer:"
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("warm_up", 0), ("thinking", 1), ("answer", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")
        if not (0 < self.timescale <= 1 and 0 < self.variance < math.inf):
            raise ValueError(
                f"timescale = {self.timescale}, variance = {self.variance}: in (0, 1], and above 0 and finite"
            )
        if not self.end or not self.delimiter:
            raise ValueError(
                f"end = {self.end!r}, delimiter = {self.delimiter!r}: the tag that ends thinking, and where it is probed"
            )

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, stop rules, stop strings that are told, log-probabilities, and latent depth
        if one is asked for.
        """
        return thinking_needs(self.depth) | {Capability.RULES, Capability.LOGPROBS}

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think and answer all traces side by side."""
        mind = ThinkingModel(
            Request(model=self.model, depth=self.depth), self.end, self.closing, self.answer
        )
        yield from gather(self._think(mind) for _ in range(self.n))

    def _think(self, mind: ThinkingModel) -> Generator[Command, Reply, None]:
        settling = Settling(self.timescale)
        at, n_left, settled = None, self.thinking, False
        while True:
            thought = yield from mind.think(
                Request(parent=at, rules=(Delimiter(self.delimiter),), max_new_tokens=n_left)
            )
            n_left -= max(1, thought.usage.output_tokens)
            if thought.finish is not Finish.RULE or n_left < 1:
                break
            at = thought.ordinal
            probe = Request(
                parent=at,
                suffix=self.end + self.probe,
                max_new_tokens=1,
                metrics=("mean_entropy",),
                purpose=Purpose.PROBE,
            )
            seen = yield from ask(probe)
            if "mean_entropy" in seen.metrics:  # one that failed tells nothing
                variance = settling.variance_with(seen.metrics["mean_entropy"])
                settled = settling.n_seen > self.warm_up + 1 and variance < self.variance
            if settled:
                break
        yield from mind.conclude(thought)


@dataclass(slots=True)
class Settling:
    """The exponential moving average and variance of a series: both start at its first value, with
    variance 0.
    """

    timescale: float
    n_seen: int = field(default=0, init=False)
    _mean: float = field(default=0.0, init=False)
    _variance: float = field(default=0.0, init=False)

    def variance_with(self, value: float) -> float:
        """Take the next value and return the variance with it: the deviation is taken from the mean
        that has it already.
        """
        self.n_seen += 1
        if self.n_seen == 1:
            self._mean = value
            return 0.0
        self._mean += self.timescale * (value - self._mean)
        self._variance += self.timescale * ((value - self._mean) ** 2 - self._variance)
        return self._variance
