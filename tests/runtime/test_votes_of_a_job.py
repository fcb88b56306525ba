"""From replies to the result of a job: the answer that most attempts state wins."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import pytest

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import (
    Capability,
    Finish,
    PluginSpec,
    Problem,
    Request,
    Result,
    Trace,
)
from orchestrator.engines.paced import PacedEngine
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution


class ScriptedEngine(PacedEngine):
    def __init__(self, replies: tuple[str, ...]) -> None:
        super().__init__()
        self._replies = replies

    async def generate(self, request: Request) -> Trace:
        return trace_for(request, Finish.STOP, text=self._replies[request.ordinal])


@registry.engine("scripted")
@dataclass(frozen=True, slots=True)
class Scripted:
    """Give the n-th attempt the n-th reply."""

    loads_models: ClassVar[bool] = False
    replies: tuple[str, ...] = ()

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.SEED, Capability.CANCEL})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[ScriptedEngine]:
        yield ScriptedEngine(self.replies)


def result(replies: tuple[str, ...], domain: str = "math") -> Result:
    """Return the result of a problem with these replies."""
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": len(replies)}),
        selector=PluginSpec("majority"),
        domain=domain,
    )
    engine = PluginSpec("scripted", {"replies": replies})
    [only] = orchestrator.run(
        [Problem("p", "Is 91 a prime?", domain)], plan, Execution(engine=engine)
    )
    return only


@pytest.mark.parametrize("domain", ["math", "text"])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_seven_attempts_that_say_no_outvote_one_that_says_yes(domain: str, place: int) -> None:
    """A short word is an answer like any other; read or not, it must not depend on its length."""
    replies = ["The answer is No."] * 7
    replies.insert(place, "The answer is Yes.")
    only = result(tuple(replies), domain)
    assert only.answer is not None
    assert only.answer.text == "No"
    assert [cluster.count for cluster in only.clusters] == [7, 1]


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_the_order_of_the_attempts_does_not_change_the_votes(order: tuple[int, ...]) -> None:
    """An equation, its right side and a number are three answers or two, never one, in any order.

    A comparison that holds one way only would unite some of them in some orders.
    """
    attempts = ("$2x+z=3$", "$z=3-2x$", "$3$")
    counts = (1, 2, 2)
    replies = [rf"\boxed{{{attempts[i].strip('$')}}}" for i in order for _ in range(counts[i])]
    only = result(tuple(replies))
    assert sorted(cluster.count for cluster in only.clusters) == [2, 3]
