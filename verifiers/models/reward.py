"""The verifier that reads an outcome reward model: one value for question and solution.

Any pool of task "classify" will do (sequence classifiers of one label, or of two: wrong, right), or
of "token_classify", whose value at the last token is taken, as Qwen2.5-Math-RM is read. The model
sees what follows a trace's reasoning. What it does not cover: of an unfinished trace it sees the
text so far, which an outcome reward model was not trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.values import Capability, Problem, Request, Trace, Verdict
from orchestrator.kit.model_verifier import ask_all, completed_only, conversation, sigmoid, solution


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward model's value of the whole solution, as a score in [0, 1]. For best-of-n."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL})

    model: Annotated[
        str, Meta(description='The model pool, of task "classify" or "token_classify".')
    ]
    scale: Annotated[
        Literal["sigmoid", "probability"],
        Meta(
            description='What turns the value into a score: "sigmoid", or "probability" where it '
            "is a score already."
        ),
    ] = "sigmoid"
    system: Annotated[
        str,
        Meta(description='The system message before the question, as in training; "" for none.'),
    ] = ""

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """What the pool may be for."""
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
                f"the model's value {value} is no probability; set scale = 'sigmoid' for raw values"
            )
        return Verdict("reward", sigmoid(value) if self.scale == "sigmoid" else value)
