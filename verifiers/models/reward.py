"""The verifier that asks an outcome reward model once: question and solution in the model's chat
template, one number.

Any pool of task "classify" will do (sequence classifiers of one label, or of two: wrong, right), or
of "token_classify", whose value at the last token is taken, as Qwen2.5-Math-RM is read. It is shown
what follows a trace's reasoning; of an unfinished trace its text so far, which an outcome reward
model was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.values import Capability, Problem, Request, Trace, Verdict
from orchestrator.kit.model_verifier import ask_all, completed_only, conversation, sigmoid, solution


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward model's value of the whole solution, as a score in [0, 1]."""

    model: str  # a model pool of the plan, with a task
    scale: Literal["sigmoid", "probability"] = (
        "sigmoid"  # of raw values; "probability": the model's own value is in [0, 1] already
    )
    system: str = (
        ""  # system message put before the question, for models that were trained with one
    )

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.POOL})

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """What the pool may be for."""
        return {self.model: ("classify", "token_classify")}

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict of one value; NoVerdict where a "probability" is none."""
        request = Request(
            prompt=conversation(problem, solution(trace), self.system), model=self.model
        )
        [reply] = completed_only((yield from ask_all([request], trace)))
        [value] = reply.values
        if self.scale == "probability" and not 0 <= value <= 1:
            raise NoVerdict(
                f"the model's value {value} is no probability; set scale = 'sigmoid' for raw values"
            )
        return Verdict("reward", sigmoid(value) if self.scale == "sigmoid" else value)
