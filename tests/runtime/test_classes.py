"""The classes of a problem's answers, as a job finds them: by keys, one answer at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Problem, Request, Trace
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers

PROBLEM = Problem("q", "", domain="math")


@pytest.fixture
async def annotator() -> AsyncIterator[Annotator]:
    async with contextlib.aclosing(AnswerWorkers(limit_seconds=60)) as workers:
        yield Annotator(Plan(domain="math"), workers)


async def key(annotator: Annotator, answer: str, classes: Classes) -> str:
    trace = Trace(0, text=f"\\boxed{{{answer}}}")
    read = (await annotator.annotate(PROBLEM, Request(), trace, classes)).answer
    assert read is not None
    return read.key


async def test_classes_of_an_earlier_version_keep_their_keys(annotator: Annotator) -> None:
    """Version 0.1 gave the class of a formula the text of its first answer as its key.

    An answer of today belongs to it all the same: a vote does not split where a job was resumed.
    """
    classes = Classes()
    for text, then in ((r"2\sqrt{3}", r"2\sqrt{3}"), ("No solution", "=no solution"), ("4", "=4")):
        classes.restore(Answer(text, then))
    assert await key(annotator, r"\sqrt{12}", classes) == r"2\sqrt{3}"
    assert await key(annotator, r"\emptyset", classes) == "=no solution"
    assert await key(annotator, "8/2", classes) == "=4"
    assert await key(annotator, "x+1", classes) not in (r"2\sqrt{3}", "=no solution", "=4")


async def test_a_class_restored_today_has_the_key_that_it_would_get(annotator: Annotator) -> None:
    classes, resumed = Classes(), Classes()
    first = await key(annotator, "x<3", classes)
    resumed.restore(Answer("x<3", first))
    assert await key(annotator, r"(-\infty, 3)", resumed) == first


async def test_an_answer_beyond_the_limits_equals_only_itself() -> None:
    hostile = r"\prod_{k=1}^{10^{9}} k"
    async with contextlib.aclosing(AnswerWorkers(limit_seconds=0.2)) as workers:
        annotator = Annotator(Plan(domain="math"), workers)
        classes = Classes()
        trace = Trace(0, text=f"\\boxed{{{hostile}}}")
        read = await annotator.annotate(PROBLEM, Request(), trace, classes)
        assert read.answer is not None
        assert "equals only itself: took more than 0.2 s" in read.note
        assert await key(annotator, hostile, classes) == read.answer.key
        assert await key(annotator, "5", classes) == "=5"
