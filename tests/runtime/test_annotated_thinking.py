"""Annotation tells thinking from reply, and reads, classifies and verifies the reply alone."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, Problem, Purpose, Request, Trace
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers

PROBLEM = Problem("p", "6*7?", domain="number")
PLAN = Plan(domain="number")


async def annotated(trace: Trace, request: Request | None = None, plan: Plan = PLAN) -> Trace:
    async with aclosing(AnswerWorkers()) as workers:
        return await Annotator(plan, workers).annotate(
            PROBLEM, request or Request(), trace, Classes()
        )


async def test_a_trace_carries_its_thinking_and_the_answer_of_its_reply() -> None:
    trace = await annotated(Trace(0, "<THINK>The answer is 41?</THINK>\nIt is 42."))
    assert trace.answer is not None
    assert (trace.answer.text, trace.thinking, trace.reply) == (
        "42",
        "The answer is 41?",
        "\nIt is 42.",
    )


async def test_a_trace_without_thinking_is_not_changed() -> None:
    trace = Trace(0, "It is 42.")
    assert replace(await annotated(trace), answer=None) == trace


@pytest.mark.parametrize("counts", [True, False])
async def test_an_answer_in_thinking_that_was_cut_counts_where_the_plan_says_so(
    counts: bool,
) -> None:
    cut = Trace(0, "<think>So the answer is 41. But", finish=Finish.LENGTH)
    trace = await annotated(cut, plan=replace(PLAN, answers_in_thinking=counts))
    assert (trace.answer.text if trace.answer else None) == ("41" if counts else None)
    assert (trace.thinking, trace.reply) == ("So the answer is 41. But", "")


async def test_a_probe_gets_its_answer_from_an_open_thinking() -> None:
    probe = Request(
        parent=0,
        prefix_text="<think>The answer is 41. No,",
        suffix=" the answer is ",
        purpose=Purpose.PROBE,
    )
    trace = await annotated(Trace(1, "42.", parent=0, purpose=Purpose.PROBE), probe)
    assert trace.answer is not None
    assert trace.answer.text == "42"
