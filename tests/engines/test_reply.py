"""Replies: an error of an engine plugin costs one trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.values import Finish, Purpose, Request, Usage
from orchestrator.engines.reply import tokens_between, validated, without_stop
from orchestrator.testing import trace

REQUEST = Request(ordinal=3, parent=1, model="m", purpose=Purpose.PROBE)
GOOD = trace(3, metrics={"mean_logprob": -0.5})


def test_a_sound_reply_is_passed_on_as_it_is() -> None:
    """It is not even copied, as every trace passes through here."""
    assert validated(REQUEST, GOOD) is GOOD
    emoji = replace(GOOD, text="naïve 🙂")
    assert validated(REQUEST, emoji) is emoji


def test_a_request_that_ran_to_its_checkpoint_ended_by_rule() -> None:
    """An engine gets the checkpoint as its limit.

    A trace that was cut earlier reached the end of the context.
    """
    request = replace(REQUEST, max_new_tokens=5, checkpoint=5)
    finishes = [
        validated(request, trace(3, tokens=n, finish=finish)).finish
        for n, finish in ((5, Finish.LENGTH), (4, Finish.LENGTH), (5, Finish.STOP))
    ]
    assert finishes == [Finish.RULE, Finish.LENGTH, Finish.STOP]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "returned None, not a Trace"),
        ({"text": "x"}, "not a Trace"),
        (trace(4, "A"), "trace 4 for request 3: it mixes up requests"),
        (replace(GOOD, metrics={"m": math.nan}), "not finite: {'m': nan}"),
        (replace(GOOD, metrics={"m": -math.inf}), "not finite"),
        (replace(GOOD, usage=Usage(1, 0, 5, 6, math.inf)), "usage.seconds"),
        (replace(GOOD, token_ids=(1, 2**31)), "beyond 32 bits"),
        (replace(GOOD, text="ab", reply_spans=((0, 3),)), "spans that are not in the text"),
        (replace(GOOD, text="ab", thinking_spans=((1, 0),)), "spans that are not in the text"),
    ],
)
def test_an_unsound_reply_is_a_failed_trace_of_its_request(reply: Any, message: str) -> None:
    """It gives the reason, stays paired with its request, and can be journalled."""
    failed = validated(REQUEST, reply)
    assert (failed.finish, failed.ordinal, failed.parent, failed.purpose, failed.model) == (
        Finish.FAILED,
        3,
        1,
        Purpose.PROBE,
        "m",
    )
    assert message in failed.error
    assert math.isfinite(failed.usage.seconds)


def test_what_was_spent_on_it_is_still_charged() -> None:
    """Every token counts, also those of a discarded trace."""
    assert validated(REQUEST, replace(GOOD, metrics={"m": math.nan})).usage == GOOD.usage


def test_half_an_emoji_is_replaced() -> None:
    """Servers cut replies within a surrogate pair, and UTF-8 cannot encode half of one.

    So the journal could not store it.
    """
    assert validated(REQUEST, replace(GOOD, text="half \ud83d")).text == "half ?"


@pytest.mark.parametrize(
    ("pieces", "stop", "kept"),
    [
        (["I", " think", "</think>"], "</think>", 2),  # the tag is one token
        (["I", " think", "</", "think", ">"], "</think>", 2),  # or three
        (
            ["I", " think", ".</th", "ink>\n"],
            "</think>",
            2,
        ),  # text in the same token as the tag is removed, too
        (["Wait", " Wait", " Wait"], "Wait", 2),  # only the last occurrence
        (["I", " think"], "</think>", 2),  # the engine errs: nothing is removed
        ([], "</think>", 0),
    ],
)
def test_the_tokens_of_a_stop_string_are_left_out(pieces: list[str], stop: str, kept: int) -> None:
    """A continuation by token ids must begin before the stop string.

    The fewest tokens that contain the whole string are removed.
    """
    ids = tuple(range(len(pieces)))
    assert without_stop(ids, stop, lambda part: "".join(pieces[i] for i in part)) == ids[:kept]


@given(
    st.lists(st.sampled_from(["a", "bc", "def", "ghij"]), min_size=1, max_size=40),
    st.data(),
)
def test_the_tokens_of_a_span_are_counted_from_both_sides(
    pieces: list[str], data: st.DataObject
) -> None:
    """Only what is outside of it is decoded: a long thinking is not."""
    text = "".join(pieces)
    first = data.draw(st.integers(0, len(pieces)))
    last = data.draw(st.integers(first, len(pieces)))
    start, end = len("".join(pieces[:first])), len("".join(pieces[:last]))
    decoded: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return "".join(pieces[i] for i in ids)

    ids = range(len(pieces))
    assert tokens_between(ids, len(text), (start, end), decode) == last - first
    outside = max(first, len(pieces) - last)
    assert max(decoded, default=0) <= max(1, 2 * outside)
