"""MITS: tree search by pointwise mutual information (Li et al., arXiv 2510.03632), and the selector
`pmi` that reads its pool.

A solution grows step by step. It is scored without a verifier, by how much likelier the question
makes it:

    PMI = log p(steps | question) - log p(steps), divided by the number of steps.

The first term is noted while the steps are drawn; for the second the model reads them once more
after a prompt without the question. After each step the best `beam` go on. An uncertain step
(entropy above the 67th percentile of all steps so far) is continued more often, a sure one (below
the 33rd) less often. The answer: of the best k solutions by PMI, the one with the largest PMI x
(share of the k that agree).

Where we differ: the prompt without the question is the plan's with a blank question, where the
paper's is the beginning of the sequence alone, which a chat model never sees. Vp, the paper's
factor in the number of continuations, could not be established; it is `gain`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.core.metrics import PREFIX
from orchestrator.core.steps import Command, Reply, Steps, ask
from orchestrator.core.values import (
    Capability,
    Cluster,
    Delimiter,
    Finish,
    PluginSpec,
    Problem,
    Prompt,
    Purpose,
    Request,
    Trace,
    changed,
)
from orchestrator.core.votes import rank, tally, voters
from orchestrator.kit.compose import gather
from orchestrator.kit.partial_solutions import check_steps, step_needs
from orchestrator.kit.prompts import with_question

WARM_UP = 10  # steps before entropy has a say (section on dynamic sampling)
MOST = 2.0  # continuations more or fewer
_BLANK = " "  # an empty prompt would stand for the question


@dataclass(frozen=True, slots=True)
class Path:
    """A solution so far; without an ordinal it is the bare question."""

    ordinal: int | None = None
    n_steps: int = 0
    logprob: float = 0.0  # of its steps after the question
    pmi: float = 0.0  # per step
    entropy: float | None = None  # of its last step
    done: bool = False


@dataclass(frozen=True, slots=True)
class Mits:
    """Grows solutions of at most `steps` steps of `step_tokens` tokens, keeps the best `beam` (0:
    all), continues each some `n` times.

    `gain` is how much a step's entropy changes that number, by at most 2 either way; 0: not at all.
    """

    n: int = 3
    beam: int = 32
    steps: int = 10
    step_tokens: int = 512
    delimiter: str = "\n\n"
    gain: float = 1.0
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("beam", 0), ("step_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")
        if not 0 <= self.gain < math.inf:
            raise ValueError(f"gain = {self.gain}: at least 0 and finite")
        check_steps(self.steps, self.delimiter)

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, stop rules, log-probabilities of what is drawn and of what is read, and
        latent depth if one is asked for.
        """
        return step_needs(self.depth) | {Capability.LOGPROBS, Capability.SCORE}

    @property
    def selector(self) -> PluginSpec:
        """The paper's final choice."""
        return PluginSpec("pmi")

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Grow level by level; what is complete leaves the beam."""
        blank = with_question(problem.prompt, _BLANK)
        entropies: list[float] = []
        paths = [Path()]
        for step in range(self.steps):
            counts = [self.n_continuations(path.entropy, entropies) for path in paths]
            copies = [path for path, n in zip(paths, counts, strict=True) for _ in range(n)]
            grown = yield from gather(
                [self._grown(path, blank, step == self.steps - 1) for path in copies]
            )
            found = [path for path in grown if path is not None]
            entropies += [path.entropy for path in found if path.entropy is not None]
            paths = sorted((p for p in found if not p.done), key=lambda p: (-p.pmi, p.ordinal))[
                : self.beam or None
            ]
            if not paths:
                return

    def n_continuations(self, entropy: float | None, entropies: Sequence[float]) -> int:
        """Return how often a step of this entropy is continued, given those of all steps so far."""
        if entropy is None or len(entropies) < WARM_UP:
            return self.n
        low, high = np.percentile(entropies, [33, 67])
        return max(1, self.n + round(variation(entropy, float(low), float(high), self.gain)))

    def _grown(
        self, path: Path, blank: Prompt, last: bool
    ) -> Generator[Command, Reply, Path | None]:
        """Take one step, read the whole without the question, and return the longer path; None when
        either failed.
        """
        asked = Request(
            model=self.model, depth=self.depth, parent=path.ordinal, max_new_tokens=self.step_tokens
        )
        rules = () if last else (Delimiter(self.delimiter),)
        trace = yield from ask(
            changed(asked, rules=rules, metrics=("mean_logprob", "mean_entropy"))
        )
        if trace.finish in (Finish.FAILED, Finish.CANCELLED) or "mean_logprob" not in trace.metrics:
            return None
        read = yield from ask(
            changed(
                asked,
                prompt=blank,
                parent=trace.ordinal,
                max_new_tokens=1,
                metrics=(PREFIX,),
                purpose=Purpose.VERIFY,
            )
        )
        if PREFIX not in read.metrics:
            return None
        logprob, n_steps = path.logprob + drawn_logprob(trace), path.n_steps + 1
        done = trace.finish is Finish.STOP or trace.answer is not None
        return Path(
            trace.ordinal,
            n_steps,
            logprob,
            (logprob - read.metrics[PREFIX]) / n_steps,
            trace.metrics.get("mean_entropy"),
            done,
        )


@dataclass(frozen=True, slots=True)
class Pmi:
    """Of the best `k` solutions by PMI, answers by PMI x (share of the k that state them), an
    answer's PMI being that of its best solution.

    A cluster's weight is that number less the lowest of all, plus 1: not negative, same order.
    Solutions whose PMI is not known (no pool of `mits`, or the reading failed) are in no cluster:
    there is nothing to compare them by.
    """

    k: int = 32

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k = {self.k}: at least 1")

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
    """Return how many continuations more or fewer a step gets: linear in how far its entropy is
    outside [low, high], at most 2.

    0 between them, and where the two are the same: then entropies do not tell steps apart.
    """
    if high <= low or low <= entropy <= high:
        return 0.0
    if entropy > high:
        return min(MOST, 2 * gain * (entropy - high) / (high - low))
    return max(-MOST, -2 * gain * (low - entropy) / (high - low))


def drawn_logprob(trace: Trace) -> float:
    """Return the log-probability of a step as it was drawn, after the question."""
    return trace.metrics["mean_logprob"] * len(trace.token_ids)


def pmis(traces: Sequence[Trace]) -> dict[int, float]:
    """Return the PMI per step of each solution in a pool that was read back, by the ordinal of its
    last step.
    """
    by_ordinal = {t.ordinal: t for t in traces}
    found: dict[int, float] = {}
    for read in sorted(traces, key=lambda t: t.ordinal):
        if read.purpose is Purpose.VERIFY and read.parent is not None and PREFIX in read.metrics:
            steps = _steps(by_ordinal, read.parent)
            if steps and all("mean_logprob" in step.metrics for step in steps):
                found[read.parent] = (
                    math.fsum(map(drawn_logprob, steps)) - read.metrics[PREFIX]
                ) / len(steps)
    return found


def _steps(by_ordinal: Mapping[int, Trace], last: int) -> list[Trace]:
    """Return the steps that end with this one, backwards; [] when the pool lacks one of them."""
    steps: list[Trace] = []
    ordinal: int | None = last
    while ordinal is not None:
        if ordinal not in by_ordinal:
            return []
        steps.append(by_ordinal[ordinal])
        ordinal = steps[-1].parent
    return steps
