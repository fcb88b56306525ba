"""Thinking of the fake engine: its length, its parts of a text, and what a cut leaves."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Request, Sampling, Trace, changed
from orchestrator.engines.fake.engine import Fake
from orchestrator.engines.fake.thinking import problem_thinking
from orchestrator.kit.answers.thinking import split

ASK = Request("2 + 2?", problem_id="p", ordinal=0, seed=5, max_new_tokens=100)
NEEDED = problem_thinking("p", 32)
SURE = Fake(answers=("4", "9"), weights=(1, 0), thinking=32)


async def completed(request: Request, options: Fake = SURE) -> Trace:
    async with options.open({"main": Model("any")}) as engine:
        return await engine.generate(request)


async def test_an_attempt_thinks_as_long_as_its_problem_takes() -> None:
    trace = await completed(ASK)
    assert NEEDED > 8  # otherwise the limits below would not bind
    assert trace.usage.reasoning_tokens == NEEDED
    assert trace.usage.output_tokens == NEEDED + 1 + SURE.n_tokens
    parts = split(trace.text)
    assert len(parts.thinking_text.split()) == NEEDED
    assert parts.reply_text.endswith("The answer is 4.")


@pytest.mark.parametrize("limit", [1, 8])
async def test_a_limit_ends_it_and_leaves_a_guess(limit: int) -> None:
    """64 guesses of two answers are alike with probability 2^-63."""
    limited = changed(ASK, sampling=Sampling(thinking_tokens=limit))
    traces = [await completed(changed(limited, seed=seed)) for seed in range(64)]
    assert {trace.usage.reasoning_tokens for trace in traces} == {limit}
    assert {trace.text[-2:] for trace in traces} == {"4.", "9."}


async def test_an_attempt_that_is_cut_while_it_thinks_has_no_reply() -> None:
    trace = await completed(changed(ASK, max_new_tokens=4))
    assert (trace.finish, trace.usage.reasoning_tokens) == (Finish.LENGTH, 4)
    parts = split(trace.text, finished=False)
    assert (len(parts.thinking_text.split()), parts.reply_text) == (4, "")


async def test_thinking_that_is_continued_counts_from_its_beginning() -> None:
    """Cut into two traces, it is as long, and replies as one would."""
    whole, first = await completed(ASK), await completed(changed(ASK, max_new_tokens=4))
    inherited = {"prefix_ids": first.token_ids, "prefix_text": first.text}
    second = await completed(changed(ASK, parent=0, **inherited))
    assert first.text + second.text == whole.text
    assert second.usage.reasoning_tokens == NEEDED - 4


async def test_without_the_option_nothing_thinks() -> None:
    trace = await completed(ASK, Fake())
    assert (trace.usage.reasoning_tokens, trace.usage.output_tokens) == (0, 8)
    assert split(trace.text).is_plain


async def test_an_abort_that_comes_after_the_last_token_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cancelled trace with an answer, but without the metrics of a whole one, failed its vote.

    All tokens are there, and the loop has not looked at the clock yet.
    """
    loop = asyncio.get_running_loop()
    async with Fake(seconds_per_token=10.0).open({"main": Model("fake")}) as engine:
        request = Request("q", problem_id="p", ordinal=0, metrics=("mean_confidence",))
        task = asyncio.ensure_future(engine.generate(request))
        await asyncio.sleep(0)
        later = loop.time() + 1000.0
        monkeypatch.setattr(loop, "time", lambda: later)
        engine.abort(request)
        trace = await task
    assert trace.finish is Finish.STOP
    assert "mean_confidence" in trace.metrics
