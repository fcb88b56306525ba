"""The similarity that asks a language model whether two unfinished solutions will agree, and reads the
probabilities of its two verdict words.

DeepPrune (arXiv 2510.08483) trains one for this and has released it; its exact prompt is not
published, so `template` is an option. With an instruct model and no training the paper measures an
AUROC of 0.66. One request a pair, of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.steps import next_trace, submit
from orchestrator.core.values import Capability, Prefix, Problem, Purpose, Request, Sampling
from orchestrator.kit.model_verifier import preference, require_two_words, word_metrics
from orchestrator.kit.prompts import fill, question

_TEMPLATE = """Below are the beginnings of two solutions to one problem. Will both come to the same final answer?

Problem:
{problem}

Beginning of solution 1:
{first}

Beginning of solution 2:
{second}

Reply with one word, {same} or {different}."""


@dataclass(frozen=True, slots=True)
class Llm:
    """A model's verdict in one token: p(same) / (p(same) + p(different)), read from its
    log-probabilities.
    """

    model: str = ""  # a model pool of the plan; "" is the plan's first
    same: str = "Yes"  # first token of the verdict that the answers agree
    different: str = "No"
    template: str = _TEMPLATE  # with {problem}, {first}, {second}, {same} and {different}
    max_chars: int = 6000  # of each prefix, from its end

    def __post_init__(self) -> None:
        missing = [name for name in ("{first}", "{second}") if name not in self.template]
        if missing:
            raise ValueError(
                f"template lacks {' and '.join(missing)}: the similarity would not see what it compares"
            )
        require_two_words(same=self.same, different=self.different)
        if self.max_chars < 1:
            raise ValueError(f"max_chars = {self.max_chars}: at least 1 is needed")

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.LOGPROBS})

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Ask about every pair at once and return what was said, in order; None where neither word
        was among the likely ones.
        """
        ordinals = yield from submit([self._request(problem, a, b) for a, b in pairs])
        scores: list[float | None] = []
        # too few: the budget ended, and so does waiting
        for ordinal in ordinals if len(ordinals) == len(pairs) else (-1,):
            reply = yield from next_trace((ordinal,))
            scores.append(preference(reply.metrics, self.same, self.different))
        return scores

    def _request(self, problem: Problem, a: Prefix, b: Prefix) -> Request:
        values = {
            "problem": question(problem.prompt),
            "first": a.text[-self.max_chars :],
            "second": b.text[-self.max_chars :],
        }
        values |= {"same": self.same, "different": self.different}
        return Request(
            prompt=fill(self.template, values),
            model=self.model,
            max_new_tokens=1,
            sampling=Sampling(temperature=0.0),
            metrics=word_metrics(self.same, self.different),
            purpose=Purpose.COMPARE,
            subjects=(a.ordinal, b.ordinal),
        )
