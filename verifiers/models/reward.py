"""A verifier that uses an outcome reward model: one value for question and solution.

The pool may have the task "classify" (sequence classifiers of one label, or of two: wrong, right)
or "token_classify", with the value at the last token, as for Qwen2.5-Math-RM. The model sees the
text after a trace's reasoning. Not covered: for an unfinished trace the model sees the text so far,
for which an outcome reward model was not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.values import Capability, Problem, Request, Trace, Verdict
from orchestrator.kit.model_verifier import ask_all, completed_only, conversation, sigmoid, solution


@dataclass(frozen=True, slots=True)
class Reward:
    """Outcome reward model's score of the whole solution; for best-of-n."""

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
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.POOL})

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
