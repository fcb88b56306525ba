"""EAT, early answering by entropy (Wang et al., arXiv 2509.26522; github.com/xidulu/EAT).

After every paragraph of its thinking an attempt is probed: the tag that would end it, a line break,
and the entropy of the token that would follow. As thinking continues, that entropy falls and
settles; when its variance, as an exponential moving average, is below a threshold, thinking no
longer changes the answer: it is closed and the attempt answers.

Where we differ: the entropy is that of the 20 most likely tokens and of the rest as one
(`mean_entropy`); averages and warm-up are those of the released code, which analyses finished
traces, while here generation really ends.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, ask
from orchestrator.core.values import Capability, Delimiter, Finish, Problem, Purpose, Request
from orchestrator.kit.options import LARGEST
from orchestrator.kit.thinking import ThinkingModel, thinking_needs
from strategies.thinking.thinking_attempts import ThinkingAttempts


@dataclass(frozen=True, slots=True)
class EarlyAnswer(ThinkingAttempts):
    """Ends thinking once the entropy of the answer has settled.

    For reasoning models on engines with log-probabilities. Saves thinking that would not change the
    answer.
    """

    variance: Annotated[
        float,
        Meta(
            gt=0,
            le=LARGEST,
            description="Variance of the probes' entropies, in nats squared, below which an "
            "attempt answers.",
        ),
    ] = 1e-4
    timescale: Annotated[
        float,
        Meta(gt=0, le=1, description="Weight of a new probe in the moving mean and variance."),
    ] = 0.2
    warm_up: Annotated[
        int, Meta(ge=0, description="Number of probes before an attempt may end its thinking.")
    ] = 25
    delimiter: Annotated[
        str, Meta(min_length=1, description="Text in the thinking after which it is probed.")
    ] = "\n\n"
    probe: Annotated[
        str, Meta(description="Text that follows the end tag in a probe; empty for none.")
    ] = "\n"

    @property
    def needs(self) -> frozenset[Capability]:
        """Stop rules and log-probabilities, in addition to the needs of all thinking attempts."""
        return thinking_needs(self.depth) | {Capability.RULES, Capability.LOGPROBS}

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think and answer in all attempts, side by side."""
        return self.side_by_side(self._attempt)

    def _attempt(self, model: ThinkingModel) -> Generator[Command, Reply, None]:
        """Think until the entropy of the answer has settled, and answer."""
        entropies = MovingVariance(self.timescale)
        parent, n_left, settled = None, self.thinking, False
        while not settled:
            trace = yield from model.think(
                Request(parent=parent, rules=(Delimiter(self.delimiter),), max_new_tokens=n_left)
            )
            n_left -= max(1, trace.usage.output_tokens)
            if trace.finish is not Finish.RULE or n_left < 1:
                break
            parent = trace.ordinal
            probe = Request(
                parent=parent,
                suffix=self.end + self.probe,
                max_new_tokens=1,
                metrics=("mean_entropy",),
                purpose=Purpose.PROBE,
            )
            metrics = (yield from ask(probe)).metrics
            if "mean_entropy" in metrics:  # a probe that failed is left out
                variance = entropies.add(metrics["mean_entropy"])
                settled = entropies.n > self.warm_up + 1 and variance < self.variance
        yield from model.conclude(trace)


@dataclass(slots=True)
class MovingVariance:
    """The exponential moving mean and variance of a series.

    Both start at its first value, with variance 0.
    """

    timescale: float
    n: int = field(default=0, init=False)
    _mean: float = field(default=0.0, init=False)
    _variance: float = field(default=0.0, init=False)

    def add(self, value: float) -> float:
        """Add the next value and return the updated variance.

        The deviation is from the mean that already includes the value.
        """
        self.n += 1
        if self.n == 1:
            self._mean = value
            return 0.0
        self._mean += self.timescale * (value - self._mean)
        self._variance += self.timescale * ((value - self._mean) ** 2 - self._variance)
        return self._variance
