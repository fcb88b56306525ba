"""A similarity that queries a language model whether two unfinished solutions will agree.

The score is computed from the probabilities of the two verdict words.

DeepPrune (arXiv 2510.08483) trains one for this and has released it; its exact prompt is not
published, so `template` is an option. With an instruct model and no training the paper measures an
AUROC of 0.66. One request a pair, of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.steps import next_trace, submit
from orchestrator.core.values import Capability, Prefix, Problem, Purpose, Request, Sampling
from orchestrator.kit.model_verifier import preference, require_two_words, word_metrics
from orchestrator.kit.prompts import fill, question

_TEMPLATE = """\
Below are the beginnings of two solutions to one problem. \
Will both come to the same final answer?

Problem:
{problem}

Beginning of solution 1:
{first}

Beginning of solution 2:
{second}

Reply with one word, {same} or {different}."""


@dataclass(frozen=True, slots=True)
class Llm:
    """Queries a model whether two prefixes will agree: one token per pair.

    The score is p(same) / (p(same) + p(different)), from the log-probabilities of that token.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LOGPROBS})

    model: Annotated[
        str, Meta(description="Model pool of the plan that compares; empty for the plan's first.")
    ] = ""
    same: Annotated[
        str, Meta(description="Verdict that the answers agree; its first token is read.")
    ] = "Yes"
    different: Annotated[
        str, Meta(description="Verdict that the answers differ; its first token is read.")
    ] = "No"
    template: Annotated[
        str,
        Meta(
            description="Prompt, with {first} and {second} for the prefixes, and {problem}, "
            "{same} and {different} where wanted."
        ),
    ] = _TEMPLATE
    max_chars: Annotated[
        int, Meta(ge=1, description="Characters of each prefix that are shown, from its end.")
    ] = 6000

    def __post_init__(self) -> None:
        missing = [name for name in ("{first}", "{second}") if name not in self.template]
        if missing:
            raise ValueError(
                f"template lacks {' and '.join(missing)}: the similarity would not see what it "
                "compares"
            )
        require_two_words(same=self.same, different=self.different)

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair, all requested at once.

        None where neither verdict word was among the most likely tokens.
        """
        ordinals = yield from submit([self._request(problem, a, b) for a, b in pairs])
        scores: list[float | None] = []
        # too few: the budget ended, and waiting for any trace ends with it
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
