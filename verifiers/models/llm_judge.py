"""A verifier with which a language model judges a solution in one token.

The score is P(yes) / (P(yes) + P(no)) of the two verdict words, as for generative verifiers without
reasoning (Zhang et al., arXiv 2408.15240). They train their model; here any instruct model works.
The one rule: if neither word is likely, there is no verdict. Not covered: reasoning before the
verdict (`process-evaluator`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.values import Capability, Problem, Request, Sampling, Trace, Verdict
from orchestrator.kit.model_verifier import (
    ask_all,
    completed_only,
    preference,
    require_two_words,
    solution,
    word_metrics,
)
from orchestrator.kit.prompts import fill, question

_TEMPLATE = """Below are a problem and a solution to it, which may be unfinished. \
Is the solution correct so far?

Problem:
{problem}

Solution:
{solution}

Reply with one word, {yes} or {no}."""


@dataclass(frozen=True, slots=True)
class LlmJudge:
    """An LLM judge that answers yes or no in one token; the cheapest judge.

    The score is p(yes) / (p(yes) + p(no)). Needs an engine with log-probabilities.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LOGPROBS})

    model: Annotated[
        str, Meta(description="Model pool that judges, without a task; empty for the plan's first.")
    ] = ""
    yes: Annotated[
        str, Meta(description="The first token of the verdict that a solution is right.")
    ] = "Yes"
    no: Annotated[
        str, Meta(description="The first token of the verdict that a solution is wrong.")
    ] = "No"
    template: Annotated[
        str,
        Meta(
            pattern=r"\{solution\}",
            description="Prompt template with {problem}, {solution}, {yes} and {no}.",
        ),
    ] = _TEMPLATE

    def __post_init__(self) -> None:
        require_two_words(yes=self.yes, no=self.no)

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict of one token; NoVerdict where neither word is likely."""
        values = {
            "problem": question(problem.prompt),
            "solution": solution(trace),
            "yes": self.yes,
            "no": self.no,
        }
        request = Request(
            prompt=fill(self.template, values),
            model=self.model,
            max_new_tokens=1,
            sampling=Sampling(temperature=0.0),
            metrics=word_metrics(self.yes, self.no),
        )
        [reply] = completed_only((yield from ask_all([request], trace)))
        share = preference(reply.metrics, self.yes, self.no)
        if share is None:
            raise NoVerdict(
                f"neither {self.yes!r} nor {self.no!r} is among the twenty most likely first "
                "tokens of the reply"
            )
        return Verdict("llm-judge", share)
