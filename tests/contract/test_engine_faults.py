"""The contract of a engine can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from orchestrator.core.values import (
    Finish,
    Request,
    Trace,
)
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.testing import (
    check_engine,
)

FAKE = Fake(n_tokens=400, seconds_per_token=0.0005)


class CachesByPrompt(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return replace(await super().generate(replace(request, seed=0)), ordinal=request.ordinal)


class PairsWrongly(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return replace(await super().generate(request), ordinal=request.ordinal ^ 1)


class IgnoresLimit(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, max_new_tokens=50))


class IgnoresAborts(FakeEngine):
    def abort(self, request: Request) -> None:
        pass


class RefusesUnknownAborts(FakeEngine):
    def abort(self, request: Request) -> None:
        self._aborts[(request.problem_id, request.ordinal)].set()


class SwallowsCancellation(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        try:
            return await super().generate(request)
        except asyncio.CancelledError:
            return Trace(request.ordinal, finish=Finish.CANCELLED)


class DrawsAnew(FakeEngine):
    draws = itertools.count()

    async def generate(self, request: Request) -> Trace:
        return await super().generate(
            replace(request, seed=request.seed + 1_000_000 * next(self.draws))
        )


class ForgetsTheParent(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, prefix_ids=()))


class IgnoresRules(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, rules=()))


class IgnoresMetrics(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, metrics=()))


class Hangs(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        await asyncio.Event().wait()
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("engine", "rule"),
    [
        (CachesByPrompt, "identity, never the prompt"),
        (PairsWrongly, "pairing"),
        (IgnoresLimit, "max_new_tokens"),
        (IgnoresAborts, "abort"),
        (RefusesUnknownAborts, "unknown aborts are ignored"),
        (SwallowsCancellation, "task cancellation"),
        (DrawsAnew, "seed"),
        (ForgetsTheParent, "continuation equals the uninterrupted trace"),
        (IgnoresRules, "rules"),
        (IgnoresMetrics, "metrics"),
        (Hangs, "never hangs"),
    ],
)
async def test_a_broken_engine_is_caught_by_its_rule(engine: type[FakeEngine], rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        await check_engine(
            engine(FAKE), FAKE.capabilities(), wait_seconds=0.2 if engine is Hangs else 60
        )


def test_a_check_runs_also_in_a_test_that_awaits_nothing() -> None:
    """A coroutine that nobody awaits would check nothing, and the test would pass."""
    with pytest.raises(AssertionError, match=r"^pairing: "):
        check_engine(PairsWrongly(FAKE), FAKE.capabilities())
