"""A verifier with which a reasoning model judges every step of a solution, and the whole.

Reasoning models as process evaluators (Kim et al., arXiv 2503.19877): the process evaluator judges
each step after a chain of thought, a step's score being the probability of the verdict's token; the
outcome evaluator judges the whole the same way; the final score is the mean of the two. Each
judgement is a request that thinks, and a continuation of one token. The one rule: where one of the
judgements cannot be read, there is no verdict.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.steps import Command, Reply
from orchestrator.core.values import (
    Capability,
    Finish,
    Problem,
    Request,
    Sampling,
    Trace,
    Verdict,
)
from orchestrator.kit.answers.thinking import split
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

_STEP = """Below are a problem and the first steps of a solution. \
Is the last of these steps correct, given those before it?

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
    """An LLM judge that reasons about each step and the whole; slow and thorough.

    The score is the mean of the process score (the steps, joined by `aggregate`) and the outcome
    score (the whole).
    """

    model: Annotated[
        str, Meta(description="Model pool that judges, without a task; empty for the plan's first.")
    ] = ""
    aggregate: Annotated[
        Aggregate, Meta(description="How the scores of the steps are joined into one.")
    ] = "mean"
    delimiter: Annotated[str, Meta(min_length=1, description="The text that ends a step.")] = "\n\n"
    max_new_tokens: Annotated[
        int,
        Meta(ge=1, description="Largest number of thinking tokens per step, and for the whole."),
    ] = 2048
    yes: Annotated[
        str, Meta(description="The first token of the verdict that something is correct.")
    ] = "Yes"
    no: Annotated[
        str, Meta(description="The first token of the verdict that something is incorrect.")
    ] = "No"
    stated: Annotated[
        bool,
        Meta(
            description="Use the verdict that the model states (0 or 1) instead of a probability, "
            "for engines without continuation or log-probabilities."
        ),
    ] = False

    def __post_init__(self) -> None:
        require_two_words(yes=self.yes, no=self.no)

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset(() if self.stated else {Capability.LOGPROBS, Capability.CONTINUE})

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the mean of process and outcome score, with the scores of the steps.

        NoVerdict where one of the judgements cannot be read.
        """
        text = solution(trace)
        steps = solution_steps(text, self.delimiter)
        problem_text = question(problem.prompt)
        prompts = [
            fill(_STEP, {"problem": problem_text, "solution": "\n\n".join(steps[:n])})
            for n in range(1, len(steps) + 1)
        ]
        prompts.append(fill(_WHOLE, {"problem": problem_text, "solution": text}))
        judge = self._stated if self.stated else self._probable
        *process, outcome = yield from judge(prompts, trace)
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
        replies = completed_only((yield from ask_all(requests, trace)))
        return _complete([verdict(t.text) for t in replies], "states no verdict")

    def _probable(
        self, prompts: Sequence[str], trace: Trace
    ) -> Generator[Command, Reply, list[float]]:
        """Think about each prompt, then continue each by one word; return P(yes) of each."""
        thinking = [
            Request(prompt=p, model=self.model, max_new_tokens=self.max_new_tokens) for p in prompts
        ]
        thoughts = completed_only((yield from ask_all(thinking, trace)))
        decisions = [self._decision(p, t) for p, t in zip(prompts, thoughts, strict=True)]
        replies = completed_only((yield from ask_all(decisions, trace)))
        return _complete(
            [preference(t.metrics, self.yes, self.no) for t in replies],
            f"begins with neither {self.yes!r} nor {self.no!r}",
        )

    def _decision(self, prompt: str, thought: Trace) -> Request:
        # where its limit came first
        closing = split(thought.text, thought.finish is Finish.STOP).closing
        closed = f"\n{closing}" if closing else ""
        return Request(
            prompt=prompt,
            parent=thought.ordinal,
            suffix=f"{closed}\n\nSo, is it correct ({self.yes} or {self.no})? Answer:",
            max_new_tokens=1,
            sampling=Sampling(temperature=0.0),
            metrics=word_metrics(self.yes, self.no),
        )


def _complete(scores: Sequence[float | None], fault: str) -> list[float]:
    readable = [score for score in scores if score is not None]
    if n_lost := len(scores) - len(readable):
        raise NoVerdict(f"{n_lost} of {len(scores)} judgements cannot be read: the reply {fault}")
    return readable
