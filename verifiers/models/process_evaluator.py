"""The verifier that has a reasoning model think about every step of a solution, and about the
whole.

Reasoning models as process evaluators (Kim et al., arXiv 2503.19877): the process evaluator judges
each step after a chain of thought, a step's score being the probability of the verdict's token; the
outcome evaluator judges the whole the same way; the final score is the mean of the two. Each
judgement is a request that thinks, and a continuation of one token.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.steps import Command, Reply
from orchestrator.core.values import Capability, Problem, Request, Sampling, Trace, Verdict
from orchestrator.kit.model_verifier import (
    ask_all,
    completed_only,
    preference,
    require_two_words,
    solution,
    solution_steps,
    word_metrics,
)
from orchestrator.kit.partial_solutions import AGGREGATES, Aggregate
from orchestrator.kit.prompts import fill, question
from orchestrator.kit.verdicts import VERDICT_FORM, verdict

_STEP = """Below are a problem and the first steps of a solution. Is the last of these steps correct, given those before it?

Problem:
{problem}

Steps so far:
{solution}

Think it through before you decide."""
_WHOLE = """Below are a problem and a solution. Is the solution correct?

Problem:
{problem}

Solution:
{solution}

Think it through before you decide."""


@dataclass(frozen=True, slots=True)
class ProcessEvaluator:
    """The mean of a process score (each step judged, joined by `aggregate`) and an outcome score
    (the whole judged).
    """

    model: str = ""  # a model pool of the plan that writes; "" is the first
    aggregate: Aggregate = "mean"  # of the steps: "mean", "min", "last" or "product"
    delimiter: str = "\n\n"  # what ends a step
    max_new_tokens: int = 2048  # of the thoughts about one step, or about the whole
    yes: str = "Yes"  # first token of the verdict that it is correct
    no: str = "No"
    # take the verdict that the model states (0 or 1): for engines without continuation or
    # log-probabilities
    stated: bool = False

    def __post_init__(self) -> None:
        if not self.delimiter or self.max_new_tokens < 1:
            raise ValueError(
                f"delimiter = {self.delimiter!r}, max_new_tokens = {self.max_new_tokens}: a text and at least 1 are needed"
            )
        require_two_words(yes=self.yes, no=self.no)

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset(() if self.stated else {Capability.LOGPROBS, Capability.CONTINUE})

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the mean of process and outcome score, with the steps' scores; NoVerdict where one
        of them cannot be had.
        """
        text = solution(trace)
        steps = solution_steps(text, self.delimiter)
        asked = question(problem.prompt)
        shown = [
            fill(_STEP, {"problem": asked, "solution": "\n\n".join(steps[: i + 1])})
            for i in range(len(steps))
        ]
        prompts = [*shown, fill(_WHOLE, {"problem": asked, "solution": text})]
        *process, outcome = yield from (
            self._stated(prompts, trace) if self.stated else self._likely(prompts, trace)
        )
        score = (AGGREGATES[self.aggregate](process) + outcome) / 2
        return Verdict("process-evaluator", score, tuple(process))

    def _stated(
        self, prompts: Sequence[str], trace: Trace
    ) -> Generator[Command, Reply, list[float]]:
        requests = [
            Request(
                prompt=f"{p} {VERDICT_FORM}", model=self.model, max_new_tokens=self.max_new_tokens
            )
            for p in prompts
        ]
        read = [verdict(t.text) for t in completed_only((yield from ask_all(requests, trace)))]
        return _complete(read, "states no verdict")

    def _likely(
        self, prompts: Sequence[str], trace: Trace
    ) -> Generator[Command, Reply, list[float]]:
        """Think about each prompt, then continue each with the question for one word and return
        P(yes) of each.
        """
        thinking = [
            Request(prompt=p, model=self.model, max_new_tokens=self.max_new_tokens) for p in prompts
        ]
        thoughts = completed_only((yield from ask_all(thinking, trace)))
        read = completed_only(
            (
                yield from ask_all(
                    [self._decision(p, t) for p, t in zip(prompts, thoughts, strict=True)], trace
                )
            )
        )
        return _complete(
            [preference(t.metrics, self.yes, self.no) for t in read],
            f"begins with neither {self.yes!r} nor {self.no!r}",
        )

    def _decision(self, prompt: str, thought: Trace) -> Request:
        # its limit came first
        closed = (
            "\n</think>" if "<think>" in thought.text and "</think>" not in thought.text else ""
        )
        return Request(
            prompt=prompt,
            parent=thought.ordinal,
            suffix=f"{closed}\n\nSo, is it correct ({self.yes} or {self.no})? Answer:",
            max_new_tokens=1,
            sampling=Sampling(temperature=0.0),
            metrics=word_metrics(self.yes, self.no),
        )


def _complete(read: Sequence[float | None], fault: str) -> list[float]:
    found = [value for value in read if value is not None]
    if len(found) < len(read):
        raise NoVerdict(
            f"{len(read) - len(found)} of {len(read)} judgements cannot be read: the reply {fault}"
        )
    return found
