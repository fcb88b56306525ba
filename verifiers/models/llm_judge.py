"""The verifier that asks a language model whether a solution is right, and reads the probabilities
of its two verdict words.

One request of one token: P(yes) / (P(yes) + P(no)), as generative verifiers (Zhang et al., arXiv
2408.15240) are read that do not reason. They train theirs; any instruct model can be asked. The
judge does not reason; `process-evaluator` has it reason first.
"""

from __future__ import annotations

from dataclasses import dataclass

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

_TEMPLATE = """Below are a problem and a solution to it, which may be unfinished. Is the solution correct so far?

Problem:
{problem}

Solution:
{solution}

Reply with one word, {yes} or {no}."""


@dataclass(frozen=True, slots=True)
class LlmJudge:
    """A model's verdict in one token: p(yes) / (p(yes) + p(no)), read from its log-probabilities."""

    model: str = ""  # a model pool of the plan that writes; "" is the first
    yes: str = "Yes"  # first token of the verdict that the solution is right
    no: str = "No"
    template: str = _TEMPLATE  # with {problem}, {solution}, {yes} and {no}

    def __post_init__(self) -> None:
        if "{solution}" not in self.template:
            raise ValueError("template lacks {solution}: the judge would not see what it judges")
        require_two_words(yes=self.yes, no=self.no)

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.LOGPROBS})

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict of one token; NoVerdict where neither word is among the likely ones."""
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
                f"neither {self.yes!r} nor {self.no!r} is among the twenty likeliest first tokens of the reply"
            )
        return Verdict("llm-judge", share)
