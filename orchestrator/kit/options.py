"""Options that plugins of several kinds share: the model pool, the latent depth, the verifier.

An option is a dataclass field with a `Meta` for its range and its meaning: loading a plan checks
the range, and `leadline plugins NAME` prints the meaning. Plugins share options by inheriting the
record that declares them. The one rule: such a record contains data and values derived from it,
never behaviour to override. An option that only one plugin has is declared in that plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from orchestrator.core.steps import depth_needs
from orchestrator.core.values import Capability, Request

LARGEST = 1e300  # an upper bound of floats that excludes infinity, which `Meta` cannot name

LatentDepth: TypeAlias = Annotated[
    Annotated[int, Meta(ge=1)] | None,
    Meta(
        description="How often the think block of a looped model runs for each attempt; if unset, "
        "the plan's depth applies, or else the model's own."
    ),
]
VerifierName: TypeAlias = Annotated[
    str, Meta(description="Name of the plan's verifier whose scores guide the search.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The model that answers, and its latent depth."""

    model: Annotated[
        str,
        Meta(
            description="Model pool from which attempts are sampled, by its name in the plan; "
            "empty for the plan's first."
        ),
    ] = ""
    depth: LatentDepth = None

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is set."""
        return depth_needs(self.depth)

    @property
    def request(self) -> Request:
        """A request to this model at this depth; the plan decides everything else."""
        return Request(model=self.model, depth=self.depth)


class PlannedAttempts:
    """What follows from an option `n`, which each plugin declares with a default of its own."""

    __slots__ = ()
    n: int

    @property
    def n_planned(self) -> int:
        """The number of attempts of full sampling."""
        return self.n


@dataclass(frozen=True, slots=True)
class AttemptOptions(PlannedAttempts, ModelOptions):
    """How many attempts there are, of one model at one depth."""

    n: Annotated[int, Meta(ge=1, description="Number of attempts.")] = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPoolsOptions:
    """The models that answer, for strategies that use several."""

    models: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Model pools of the plan that answer.")
    ]
    depth: LatentDepth = None

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools that this plugin names."""
        return self.models

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is set."""
        return depth_needs(self.depth)
