"""Answers fall into classes: one for each value, whatever they are compared with and in what order.

Pools are random, of every type and mixed; `spellings` makes an answer from its value, so that the
right classes are known.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spellings import ANSWERS, MIXED, Spelled, pools

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Domain
from orchestrator.core.values import Finish, Problem, Request, Trace
from orchestrator.core.votes import tally, voters
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from verifiers.answers.choice import Choice
from verifiers.answers.code import Code
from verifiers.answers.json_value import JsonValue
from verifiers.answers.math import Math
from verifiers.answers.number import Number
from verifiers.answers.text import Text

pytestmark = pytest.mark.slow

DOMAINS: list[Domain] = [Math(), Number(), Number(0.01), Choice(), Text(), JsonValue(), Code()]
MATH = Math()
_PIECES = (
    "A",
    "b",
    "(C)",
    "yes",
    "No.",
    "1.005",
    "{1: 2}",
    '{"a": 1}',
    "[1, 2]",
    "x = 1\n",
    "",
    "½",
)


def partition(keys: Sequence[object]) -> set[frozenset[int]]:
    """Return the places with equal keys, as a set of classes."""
    return {frozenset(i for i, other in enumerate(keys) if other == key) for key in keys}


def check_classes(pool: Sequence[Spelled]) -> None:
    keys = [MATH.resolve(answer.text) for answer in pool]
    for i, a in enumerate(pool):
        for b, key in zip(pool[:i], keys[:i], strict=True):
            assert (keys[i] == key) == (a.value == b.value), (a, b, keys[i], key)


@pytest.mark.parametrize("kind", ANSWERS)
@given(data=st.data())
@settings(max_examples=50)
def test_one_value_is_one_class_and_two_values_are_two(kind: str, data: st.DataObject) -> None:
    """Spellings do not split a class, and near values do not share one."""
    check_classes(data.draw(pools(ANSWERS[kind])))


@given(pools(MIXED))
@settings(max_examples=250)
def test_types_share_a_class_only_where_a_rule_says_so(pool: list[Spelled]) -> None:
    check_classes(pool)


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
@given(
    texts=st.lists(
        st.one_of(
            MIXED.map(lambda answers: answers[0].text),
            st.sampled_from(_PIECES),
            st.text("0123456789.,/%-+ abx=()[]{}\\", max_size=12),
            st.integers(990, 1010).map(str),
        ),
        min_size=3,
        max_size=6,
    )
)
@settings(max_examples=50)
def test_equality_is_reflexive_symmetric_and_transitive(domain: Domain, texts: list[str]) -> None:
    """Any three answers, read from replies or not: else classes would depend on who is first."""
    same = [[domain.equivalent(a, b) for b in texts] for a in texts]
    for i, row in enumerate(same):
        assert row[i], texts[i]
        for j, equal in enumerate(row):
            assert equal == same[j][i], (texts[i], texts[j])
            assert not equal or row == same[j], (texts[i], texts[j], texts)


@pytest.fixture(scope="module")
def annotated() -> Iterator[Callable[[str, Sequence[str], Sequence[int]], list[Trace]]]:
    """Return attempts in order of ordinal, annotated in a given order, as a job does it."""
    with asyncio.Runner() as runner:
        workers = AnswerWorkers(n_workers=1)

        async def traces(domain: str, answers: Sequence[str], order: Sequence[int]) -> list[Trace]:
            annotator, classes = Annotator(Plan(domain=domain), workers), Classes()
            problem, done = Problem("p", "?", domain), dict[int, Trace]()
            for i in order:
                trace = Trace(i, text=f"\\boxed{{{answers[i]}}}", finish=Finish.STOP)
                done[i] = await annotator.annotate(problem, Request(), trace, classes)
            return [done[i] for i in sorted(done)]

        yield lambda *arguments: runner.run(traces(*arguments))
        runner.run(workers.aclose())


@pytest.mark.parametrize("domain", ["math", "number", "choice", "text", "json"])
@given(pool=pools(MIXED), seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_any_order_of_arrival_gives_the_same_classes_and_the_same_winner(
    annotated: Callable[[str, Sequence[str], Sequence[int]], list[Trace]],
    domain: str,
    pool: list[Spelled],
    seed: int,
) -> None:
    """The vote counts what the attempts say, not which of them came first."""
    answers, order = [answer.text for answer in pool], list(range(len(pool)))
    first = annotated(domain, answers, order)
    random.Random(seed).shuffle(order)
    again = annotated(domain, answers, order)
    keys = [[trace.answer and trace.answer.key for trace in traces] for traces in (first, again)]
    assert partition(keys[0]) == partition(keys[1])
    winners = [tally(voters(traces))[:1] for traces in (first, again)]
    assert [c.ordinals for c in winners[0]] == [c.ordinals for c in winners[1]]
