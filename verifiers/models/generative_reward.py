"""The verifier that asks a language model to write principles, a critique by them, and a score from
1 to 10, k times.

DeepSeek-GRM (Liu et al., arXiv 2504.02495): a generative reward model scaled at inference by
parallel samples, whose scores are summed, guided by a meta reward model that keeps the better
critiques. One solution is scored at a time, so there is no order of responses to shuffle, and the
mean takes the place of the sum, which orders solutions alike. The prompt is in the paper's gist;
its words are ours.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.steps import Command, Reply
from orchestrator.core.values import (
    Capability,
    Finish,
    Message,
    Problem,
    Request,
    Sampling,
    Trace,
    Verdict,
)
from orchestrator.kit.model_verifier import ask_all, solution, usable
from orchestrator.kit.prompts import fill, question
from orchestrator.kit.verdicts import SCORE_FORM, rating

_TEMPLATE = """You are to grade a solution to a problem.

Problem:
{problem}

Solution:
{solution}

First state the principles by which a solution to this problem should be graded, and how much each of them counts. Then criticise the
solution by each principle. """


@dataclass(frozen=True, slots=True)
class GenerativeReward:
    """The mean of `k` sampled scores, of all of them or of the half whose critiques the pool `meta`
    values most.
    """

    model: str = ""  # a model pool of the plan that writes; "" is the first
    k: int = 8
    # a model pool that values critiques (task "classify" or "token_classify"); "": all critiques
    # count
    meta: str = ""
    kept: int = 0  # of the critiques that `meta` has valued; 0: half of k
    max_new_tokens: int = 2048
    temperature: float = 1.0
    template: str = _TEMPLATE  # with {problem} and {solution}

    def __post_init__(self) -> None:
        if self.k < 1 or not 0 <= self.kept <= self.k:
            raise ValueError(
                f"k = {self.k}, kept = {self.kept}: at least one sample, of which at most all are kept"
            )
        if self.kept and not self.meta:
            raise ValueError(f"kept = {self.kept}: it takes a pool `meta` to choose them")
        if (
            self.max_new_tokens < 1
            or not self.temperature >= 0
            or (self.k > 1 and not self.temperature)
        ):
            raise ValueError(
                f"max_new_tokens = {self.max_new_tokens}, temperature = {self.temperature}: at least 1, and above 0 unless k = 1"
            )
        if "{solution}" not in self.template:
            raise ValueError("template lacks {solution}: the model would not see what it grades")

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that it names beside `model`."""
        return (self.meta,)

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """What the pool `meta` may be for."""
        return {self.meta: ("classify", "token_classify")} if self.meta else {}

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.POOL} if self.meta else ())

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the mean of the scores that could be read; NoVerdict where none could."""
        values = {"problem": question(problem.prompt), "solution": solution(trace)}
        prompt = fill(self.template, values) + SCORE_FORM
        sampling = Sampling(temperature=self.temperature, top_p=1.0)
        request = Request(
            prompt=prompt, model=self.model, max_new_tokens=self.max_new_tokens, sampling=sampling
        )
        written = usable((yield from ask_all([request] * self.k, trace)))
        read = [(t, score) for t in written if (score := rating(t.text)) is not None]
        if self.meta and read:
            read = yield from self._kept(prompt, read, trace)
        if not read:
            raise NoVerdict(f"none of {self.k} samples stated a score that counts")
        scores = [score for _, score in read]
        note = (
            ""
            if len(scores) == (self._n_kept if self.meta else self.k)
            else f"{len(scores)} of {self.k} scores could be read"
        )
        return Verdict("generative-reward", sum(scores) / len(scores), note=note)

    @property
    def _n_kept(self) -> int:
        return self.kept or max(1, self.k // 2)

    def _kept(
        self, prompt: str, read: Sequence[tuple[Trace, float]], trace: Trace
    ) -> Generator[Command, Reply, list[tuple[Trace, float]]]:
        """Return the samples with the most valued critiques, in order; of equal ones the first.

        What could not be valued is left out.
        """
        asked = [
            Request(
                prompt=(Message("user", prompt), Message("assistant", t.text.strip())),
                model=self.meta,
            )
            for t, _ in read
        ]
        valued = yield from ask_all(asked, trace)
        usable(valued)
        values = {
            i: t.values[0] for i, t in enumerate(valued) if t.finish is Finish.STOP and t.values
        }
        best = sorted(values, key=lambda i: (-values[i], i))[: self._n_kept]
        return [read[i] for i in sorted(best)]
