"""The verifiers that read reward models: one value for a solution, or one for each of its steps.

`reward` reads an outcome reward model. Any pool of task "classify" will do (sequence classifiers of
one label, or of two: wrong, right), or of "token_classify", whose value at the last token is taken,
as Qwen2.5-Math-RM is read. The model sees what follows a trace's reasoning. What it does not cover:
of an unfinished trace it sees the text so far, which an outcome reward model was not trained on.

`process-reward` reads a process reward model, in one request, as Qwen2.5-Math-PRM is read: the
steps joined by the tag `<extra_0>`, which also ends the last, and at each tag the softmax of the
labels wrong and right. Steps, tag and system message are options, for models with another tag. The
one rule: where values and steps differ in number, there is no verdict. It scores unfinished
solutions too: beam, dvts and particles have them scored after every step, and `last` is the score
of the newest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.values import Capability, Problem, Request, Trace, Verdict
from orchestrator.kit.model_verifier import (
    ask_all,
    completed_only,
    conversation,
    sigmoid,
    solution,
    solution_steps,
)
from orchestrator.kit.partial_solutions import AGGREGATES, Aggregate


@dataclass(frozen=True, slots=True)
class Reward:
    """Outcome reward model's score of the whole solution; for best-of-n."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL})

    model: Annotated[
        str, Meta(description='Model pool with the task "classify" or "token_classify".')
    ]
    scale: Annotated[
        Literal["sigmoid", "probability"],
        Meta(
            description='Conversion of the value to a score: "sigmoid", or "probability" if the '
            "value is already in [0, 1]."
        ),
    ] = "sigmoid"
    system: Annotated[
        str,
        Meta(description='The system message before the question, as in training; "" for none.'),
    ] = ""

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """The acceptable tasks of the pool."""
        return {self.model: ("classify", "token_classify")}

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict of one value; NoVerdict for a "probability" that is not in [0, 1]."""
        request = Request(
            prompt=conversation(problem, solution(trace), self.system), model=self.model
        )
        [reply] = completed_only((yield from ask_all([request], trace)))
        [value] = reply.values
        if self.scale == "probability" and not 0 <= value <= 1:
            raise NoVerdict(
                f"the model's value {value} is not a probability; set scale = 'sigmoid' for logits"
            )
        return Verdict("reward", sigmoid(value) if self.scale == "sigmoid" else value)


@dataclass(frozen=True, slots=True)
class ProcessReward:
    """A process reward model's P(right) of each step. For step-by-step search, or best-of-n.

    Read as Qwen2.5-Math-PRM is (arXiv 2501.07301 and its model card).
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL})

    model: Annotated[str, Meta(description='The model pool, of task "token_classify".')]
    aggregate: Annotated[
        Aggregate, Meta(description="How the scores of the steps are joined into the solution's.")
    ] = "min"
    delimiter: Annotated[str, Meta(min_length=1, description="The text that ends a step.")] = "\n\n"
    tag: Annotated[
        str,
        Meta(min_length=1, description="The token after each step at which the model has a value."),
    ] = "<extra_0>"
    system: Annotated[
        str,
        Meta(description='The system message before the question, as in training; "" for none.'),
    ] = "Please reason step by step, and put your final answer within \\boxed{}."

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """What the pool must be for."""
        return {self.model: ("token_classify",)}

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict, with one score a step; NoVerdict where the text has its own tags."""
        text = solution(trace)
        if self.tag in text:
            raise NoVerdict(f"the solution itself contains the step tag {self.tag!r}")
        steps = solution_steps(text, self.delimiter)
        tagged = "".join(step + self.tag for step in steps)
        request = Request(
            prompt=conversation(problem, tagged, self.system), model=self.model, read_at=self.tag
        )
        [reply] = completed_only((yield from ask_all([request], trace)))
        if len(reply.values) != len(steps):
            raise NoVerdict(
                f"the model returned {len(reply.values)} values for {len(steps)} steps; "
                f"is {self.tag!r} its step tag?"
            )
        scores = tuple(map(sigmoid, reply.values))
        return Verdict("process-reward", AGGREGATES[self.aggregate](scores), scores)
