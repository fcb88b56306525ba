"""Probes: short continuations with a forced suffix that make a running attempt give its answer.

Shared by all strategies that probe; each strategy has its own rule for using the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from msgspec import Meta

from orchestrator.core.values import Capability, Purpose, Request
from orchestrator.kit.options import PlannedAttempts

ProbeSuffix: TypeAlias = Annotated[
    str, Meta(description="Text appended to an attempt to make it state its answer.")
]
ProbeTokens: TypeAlias = Annotated[
    int, Meta(ge=1, description="Largest number of tokens of a probe.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions(PlannedAttempts):
    """How an attempt is probed."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE})

    suffix: ProbeSuffix = "\n\nThe final answer is"
    probe_tokens: ProbeTokens = 16

    def probe(self, parent: int, purpose: Purpose = Purpose.PROBE) -> Request:
        """Return the request that probes an attempt after its trace `parent`."""
        return Request(
            parent=parent,
            suffix=self.suffix,
            max_new_tokens=self.probe_tokens,
            purpose=purpose,
        )


@dataclass(slots=True)
class StretchedAttempt:
    """An attempt that runs in stretches, each from one probe to the next."""

    stretches: list[int]  # their ordinals, the latest last
    n_contrary: int = 0  # probes in a row that contradicted the leader

    @property
    def ordinal(self) -> int:
        """The ordinal of the latest stretch."""
        return self.stretches[-1]
