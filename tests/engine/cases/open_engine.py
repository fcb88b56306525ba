"""The factory of an engine that is open already, which stays open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from orchestrator.core.plan import Model
from orchestrator.core.values import Capability
from orchestrator.engines.vllm.engine import VllmEngine


@dataclass(frozen=True)
class OpenEngine:
    """Hands out the engine, whatever the models."""

    engine: VllmEngine

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
        yield self.engine
