"""The verifier that has a language model write critiques that end in a score from 1 to 10.

DeepSeek-GRM (Liu et al., arXiv 2504.02495): a generative reward model scaled at inference by
parallel samples, whose scores are summed, guided by a meta reward model that keeps the better
critiques. The one rule: a critique without a readable score is left out, never counted as 0.
Differs: one solution is scored at a time, so there is no order of responses to shuffle, and the
mean takes the place of the sum, which orders solutions alike. The prompt follows the paper's idea
of principles and critique; its words are ours.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

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

First state the principles by which a solution to this problem should be graded, and how much each \
of them counts. Then criticise the
solution by each principle. """


@dataclass(frozen=True, slots=True)
class GenerativeReward:
    """The mean score of `k` written critiques. For answers that no reward model was trained on.

    With a pool `meta`, only the critiques count that it values most.
    """

    model: Annotated[
        str, Meta(description='The model pool that grades, one that writes text; "" is the first.')
    ] = ""
    k: Annotated[int, Meta(ge=1, description="The number of critiques of each solution.")] = 8
    meta: Annotated[
        str,
        Meta(
            description='The model pool that values critiques, of task "classify" or '
            '"token_classify"; "" has all critiques count.'
        ),
    ] = ""
    kept: Annotated[
        int,
        Meta(
            ge=0,
            description="How many of the critiques that `meta` has valued count; 0 is half of k.",
        ),
    ] = 0
    max_new_tokens: Annotated[
        int, Meta(ge=1, description="The tokens that one critique may take.")
    ] = 2048
    temperature: Annotated[
        float,
        Meta(
            ge=0,
            description="The temperature at which critiques are sampled; above 0 unless k is 1.",
        ),
    ] = 1.0
    template: Annotated[
        str,
        Meta(
            pattern=r"\{solution\}",
            description="The prompt; {problem} and {solution} are filled in.",
        ),
    ] = _TEMPLATE

    def __post_init__(self) -> None:
        if self.kept > self.k:
            raise ValueError(f"kept = {self.kept}: at most all k = {self.k} critiques are kept")
        if self.kept and not self.meta:
            raise ValueError(f"kept = {self.kept}: it takes a pool `meta` to choose them")
        if self.k > 1 and not self.temperature:
            raise ValueError("temperature = 0: above 0 unless k = 1, or all critiques are the same")

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
        critiques = usable((yield from ask_all([request] * self.k, trace)))
        rated = [(t, score) for t in critiques if (score := rating(t.text)) is not None]
        if self.meta and rated:
            rated = yield from self._best(prompt, rated, trace)
        if not rated:
            raise NoVerdict(f"none of {self.k} samples stated a score that counts")
        scores = [score for _, score in rated]
        n_due = self._n_kept if self.meta else self.k
        note = "" if len(scores) == n_due else f"{len(scores)} of {self.k} scores could be read"
        return Verdict("generative-reward", sum(scores) / len(scores), note=note)

    @property
    def _n_kept(self) -> int:
        return self.kept or max(1, self.k // 2)

    def _best(
        self, prompt: str, rated: Sequence[tuple[Trace, float]], trace: Trace
    ) -> Generator[Command, Reply, list[tuple[Trace, float]]]:
        """Return the critiques that `meta` values most, in order; of equal ones the first.

        Those without a value are left out.
        """
        question_message = Message("user", prompt)
        requests = [
            Request(
                prompt=(question_message, Message("assistant", critique.text.strip())),
                model=self.meta,
            )
            for critique, _ in rated
        ]
        replies = yield from ask_all(requests, trace)
        usable(replies)
        values = {
            i: t.values[0] for i, t in enumerate(replies) if t.finish is Finish.STOP and t.values
        }
        best = sorted(values, key=lambda i: (-values[i], i))[: self._n_kept]
        return [rated[i] for i in sorted(best)]
