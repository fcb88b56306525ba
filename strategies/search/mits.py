"""MITS: tree search by pointwise mutual information (Li et al., arXiv 2510.03632).

The selector `pmi` ranks the pool. A solution grows step by step. Its score needs no verifier: it is
how much more likely the question makes the solution:

    PMI = log p(steps | question) - log p(steps), divided by the number of steps.

The first term is recorded while the steps are sampled; for the second, the model reads them again
after a prompt without the question. After each step the best `beam` continue. An uncertain step
(entropy above the 67th percentile of all steps so far) is continued more often, a certain one
(below the 33rd) less often. Of the best k solutions by PMI, the one with the largest PMI x (share
of the k that agree) gives the answer.

Where we differ: the prompt without the question is the plan's with a blank question, where the
paper's is the beginning of the sequence alone, which a chat model never sees. Vp, the paper's
factor in the number of continuations, could not be determined; it is `gain`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from orchestrator.core.lineage import lineage
from orchestrator.core.metrics import PREFIX
from orchestrator.core.steps import Command, Reply, Steps, ask, note
from orchestrator.core.values import (
    Capability,
    Cluster,
    Delimiter,
    Finish,
    PluginSpec,
    Problem,
    Prompt,
    Purpose,
    Trace,
    changed,
)
from orchestrator.core.votes import rank, tally, voters
from orchestrator.kit.compose import gather
from orchestrator.kit.options import LARGEST
from orchestrator.kit.partial_solutions import step_needs
from orchestrator.kit.prompts import with_question
from strategies.search.step_options import StepOptions

WARM_UP = 10  # steps before entropy counts (section on dynamic sampling)
MOST = 2.0  # continuations more or fewer
_BLANK = " "  # an empty prompt would mean the question


@dataclass(frozen=True, slots=True)
class StepPath:
    """A solution so far; without an ordinal it has no step yet."""

    ordinal: int | None = None
    n_steps: int = 0
    logprob: float = 0.0  # of its steps after the question
    pmi: float = 0.0  # per step
    entropy: float | None = None  # of its last step
    done: bool = False


@dataclass(frozen=True, slots=True)
class Mits(StepOptions):
    """Searches over steps by pointwise mutual information, without a verifier."""

    selector: ClassVar[PluginSpec] = PluginSpec("pmi")  # the paper's final choice

    n: Annotated[
        int,
        Meta(ge=1, description="Number of continuations of a step whose entropy is ordinary."),
    ] = 3
    beam: Annotated[
        int,
        Meta(ge=0, description="Number of partial solutions kept after each step; 0 keeps all."),
    ] = 32
    steps: Annotated[
        int, Meta(ge=1, description="Largest number of steps; the last one runs to its end.")
    ] = 10
    step_tokens: Annotated[int, Meta(ge=1, description="Largest number of tokens of a step.")] = 512
    gain: Annotated[
        float,
        Meta(
            ge=0,
            le=LARGEST,
            description="How strongly a step's entropy changes its number of continuations, by at "
            "most 2 either way; 0 ignores entropy.",
        ),
    ] = 1.0

    @property
    def needs(self) -> frozenset[Capability]:
        """Log-probabilities of sampled and of scored tokens, in addition to the needs of steps."""
        return step_needs(self.depth) | {Capability.LOGPROBS, Capability.SCORE}

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Grow level by level; completed solutions leave the beam."""
        blank = with_question(problem.prompt, _BLANK)
        entropies: list[float] = []
        paths = [StepPath()]
        for step in range(self.steps):
            counts = [self.n_continuations(path.entropy, entropies) for path in paths]
            copies = [path for path, n in zip(paths, counts, strict=True) for _ in range(n)]
            longer = yield from gather(
                [self._longer(path, blank, step == self.steps - 1) for path in copies]
            )
            grown = [path for path in longer if path is not None]
            entropies += [path.entropy for path in grown if path.entropy is not None]
            unfinished = [path for path in grown if not path.done]
            paths = sorted(unfinished, key=lambda p: (-p.pmi, p.ordinal))[: self.beam or None]
            if not paths:
                return

    def n_continuations(self, entropy: float | None, entropies: Sequence[float]) -> int:
        """Return a step's number of continuations, by its entropy and that of all steps so far."""
        if entropy is None or len(entropies) < WARM_UP:
            return self.n
        low, high = np.percentile(entropies, [33, 67])
        return max(1, self.n + round(variation(entropy, float(low), float(high), self.gain)))

    def _longer(
        self, path: StepPath, blank: Prompt, last: bool
    ) -> Generator[Command, Reply, StepPath | None]:
        """Generate one step, score the path without the question, and return the longer path.

        None if either request failed.
        """
        step = yield from ask(
            changed(
                self.request,
                parent=path.ordinal,
                rules=() if last else (Delimiter(self.delimiter),),
                max_new_tokens=self.step_tokens,
                metrics=("mean_logprob", "mean_entropy"),
            )
        )
        if step.lost or "mean_logprob" not in step.metrics:
            return None
        reading = yield from ask(
            changed(
                self.request,
                prompt=blank,
                parent=step.ordinal,
                max_new_tokens=1,
                metrics=(PREFIX,),
                purpose=Purpose.VERIFY,
            )
        )
        if PREFIX not in reading.metrics:
            return None
        logprob, n_steps = path.logprob + drawn_logprob(step), path.n_steps + 1
        pmi = (logprob - reading.metrics[PREFIX]) / n_steps
        yield from note(step.ordinal, f"PMI {pmi:.2f}")
        return StepPath(
            step.ordinal,
            n_steps,
            logprob,
            pmi,
            step.metrics.get("mean_entropy"),
            step.finish is Finish.STOP or step.answer is not None,
        )


@dataclass(frozen=True, slots=True)
class Pmi:
    """Votes by pointwise mutual information; for pools of `mits`.

    Of the best `k` solutions by PMI, the answer with the largest PMI x (share of the k that give
    it) wins; an answer's PMI is that of its best solution. A cluster's weight is this number minus
    the lowest of all, plus 1: it is not negative and keeps the order. Solutions without a known PMI
    (not a pool of `mits`, or the scoring request failed) are in no cluster, as they cannot be
    compared.
    """

    k: Annotated[int, Meta(ge=1, description="Number of best solutions that vote.")] = 32

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return the clusters of the best `k`."""
        known = pmis(traces)
        pool = sorted(
            (t for t in voters(traces) if t.ordinal in known),
            key=lambda t: (-known[t.ordinal], t.ordinal),
        )[: self.k]
        clusters = tally(pool)
        values = [max(known[o] for o in c.ordinals) * c.count / self.k for c in clusters]
        return rank(
            replace(c, weight=value - min(values) + 1)
            for c, value in zip(clusters, values, strict=True)
        )


def variation(entropy: float, low: float, high: float, gain: float) -> float:
    """Return by how many a step's continuations increase or decrease, at most 2.

    Linear in the distance of its entropy from [low, high]; 0 inside, and if low equals high: then
    entropies do not distinguish steps.
    """
    if high <= low or low <= entropy <= high:
        return 0.0
    if entropy > high:
        return min(MOST, 2 * gain * (entropy - high) / (high - low))
    return max(-MOST, -2 * gain * (low - entropy) / (high - low))


def drawn_logprob(trace: Trace) -> float:
    """Return the log-probability of a step as it was sampled, after the question."""
    return trace.metrics["mean_logprob"] * len(trace.token_ids)


def pmis(traces: Sequence[Trace]) -> dict[int, float]:
    """Return the PMI per step of each scored solution, by the ordinal of its last step."""
    by_ordinal = {t.ordinal: t for t in traces}
    pmi: dict[int, float] = {}
    for reading in sorted(traces, key=lambda t: t.ordinal):
        if reading.purpose is not Purpose.VERIFY or PREFIX not in reading.metrics:
            continue
        *steps, _ = lineage(reading, by_ordinal)
        whole = bool(steps) and steps[0].parent is None
        if whole and all("mean_logprob" in step.metrics for step in steps):
            drawn = math.fsum(map(drawn_logprob, steps))
            pmi[steps[-1].ordinal] = (drawn - reading.metrics[PREFIX]) / len(steps)
    return pmi
