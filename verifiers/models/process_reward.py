"""A verifier that uses a process reward model: a value at the end of each step, in one request.

The format is that of Qwen2.5-Math-PRM (arXiv 2501.07301 and its model card): each step is followed
by the tag `<extra_0>`, and the value at each tag is the softmax of the labels wrong and right.
Steps, tag and system message are options, for models with another format. The one rule: if the
numbers of values and steps differ, there is no verdict. Unfinished solutions can be scored too:
beam, dvts and particles score them after every step, and `last` is the score of the newest step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

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
class ProcessReward:
    """Process reward model's P(right) of each step; for step search or best-of-n."""

    model: Annotated[str, Meta(description='Model pool with the task "token_classify".')]
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
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.POOL})

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """The task that the pool must have."""
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
