"""Options of the searches over steps: where a step ends, how many there are, who scores them.

A new search over steps inherits the record it needs; nothing here decides which partial solutions
continue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.values import Capability
from orchestrator.kit.options import ModelOptions, VerifierName
from orchestrator.kit.partial_solutions import StepSampler, step_needs


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions(ModelOptions):
    """Solutions that grow step by step."""

    steps: Annotated[
        int, Meta(ge=1, description="Largest number of steps; the last one runs to its end.")
    ] = 40
    delimiter: Annotated[
        str,
        Meta(min_length=1, description="Text that ends a step, such as a blank line."),
    ] = "\n\n"

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, stop rules, and latent depth if one is set."""
        return step_needs(self.depth)


@dataclass(frozen=True, slots=True)
class ScoredStepOptions(StepOptions):
    """Solutions that grow step by step, each step scored by a verifier."""

    verifier: VerifierName

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads."""
        return (self.verifier,)

    @property
    def sampler(self) -> StepSampler:
        """How a step is taken and scored."""
        return StepSampler(self.request, self.verifier, self.delimiter)
