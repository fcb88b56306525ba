"""Programs that try to pass a test of statements without what it wants (`escapes.toml`)."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifiers.programs.judge import fault_found
from verifiers.programs.sandbox import Limits

pytestmark = pytest.mark.usefixtures("sandboxing")
DATA = tomllib.loads(Path(__file__).with_name("escapes.toml").read_text())
KINDS = sorted({escape["kind"] for escape in DATA["escapes"]})
LIMITS = Limits(seconds=2, wall_seconds=60, memory_mib=256)


async def faults(pairs: list[tuple[str, str]]) -> list[str]:
    return await asyncio.gather(*(fault_found(p, t, limits=LIMITS) for p, t in pairs))


def escapes(kind: str) -> Iterator[tuple[str, str]]:
    for escape in DATA["escapes"]:
        if escape["kind"] == kind:
            yield escape["program"], DATA["tests"][escape["test"]]["test"]


async def test_an_honest_program_passes_every_test() -> None:
    """Otherwise that nothing else passes would mean nothing."""
    honest = [(one["honest"], one["test"]) for one in DATA["tests"].values()]
    assert dict(zip(honest, await faults(honest), strict=True)) == dict.fromkeys(honest, "")


def test_there_are_at_least_120_attempts() -> None:
    assert len({(e["program"], e["test"]) for e in DATA["escapes"]}) >= 120


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_no_escape_passes(kind: str) -> None:
    """A program passes by what its functions return, and by nothing else."""
    attempts = list(escapes(kind))
    passed = [
        p for (p, _), fault in zip(attempts, await faults(attempts), strict=True) if not fault
    ]
    assert passed == []
