"""Options of the searches over steps: the delimiter, the number of steps, and the verifier.

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
    """Options for solutions that grow step by step."""

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
    """Options for solutions that grow step by step, with a verifier that scores each step."""

    verifier: VerifierName

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier that provides the scores."""
        return (self.verifier,)

    @property
    def sampler(self) -> StepSampler:
        """The sampler that generates and scores steps."""
        return StepSampler(self.request, self.verifier, self.delimiter)
