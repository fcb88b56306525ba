"""Concise hints: where they come, how thinking ends, and what they are worth."""

from __future__ import annotations

import random

import pytest

from orchestrator.core.values import Answer, Finish, Request, Trace, Usage
from orchestrator.testing import explore
from strategies.selectors.majority import Majority
from strategies.thinking.concise_hint import ConciseHint

END, HINT = "</think>", " (make answer concise!) "


def piece(n_tokens: int, finish: Finish = Finish.RULE, stop: str = "") -> Trace:
    return Trace(0, "...", (1,), finish, stop=stop, usage=Usage(output_tokens=n_tokens))


def requests_of(
    strategy: ConciseHint, last: Trace | None = None, n_before: int = 99
) -> list[Request]:
    """The requests when the first pieces are as long as they may be, and then `last` comes."""
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        if not request.stop:
            return Trace(0, "42", (1,), answer=Answer("42", "42"))
        whole = piece(
            request.max_new_tokens or 0, Finish.RULE if request.checkpoint else Finish.LENGTH
        )
        return whole if last is None or len(requests) <= n_before else last

    assert explore(strategy, world).error == ""
    return requests


def test_hints_come_at_growing_distances() -> None:
    """alpha 128, beta .2: after 128 tokens; then 128 + 25 = 153 more, at 281.

    Then 128 + 56 = 184, at 465; the last 35 are what is left.
    """
    requests = requests_of(ConciseHint(n=1, thinking=500, answer=7))
    assert [(r.parent, r.suffix, r.max_new_tokens) for r in requests] == [
        (None, "", 128),
        (0, HINT, 153),
        (1, HINT, 184),
        (2, HINT, 35),
        (3, END + "\n\nFinal Answer:", 7),
    ]


@pytest.mark.parametrize(
    ("last", "suffix"),
    [
        (piece(9, Finish.STOP, END), END),
        (piece(9, Finish.STOP), None),
        (piece(0, Finish.FAILED), None),
        (piece(9, Finish.LENGTH), END + "\n\nFinal Answer:"),
    ],
)
def test_thinking_that_ends_by_itself_gets_no_hint(last: Trace, suffix: str | None) -> None:
    """At its tag it answers.

    A text that ended has answered, nothing follows a failure, and where the context is full it must
    answer.
    """
    requests = requests_of(ConciseHint(n=1), last, n_before=1)
    assert [r.suffix for r in requests[2:]] == ([] if suffix is None else [suffix])


def test_where_hints_shorten_thinking_it_is_as_right_as_computed_by_hand() -> None:
    """A trace needs L tokens of thinking, 100 to 900; each hint halves what is left.

    Within 300 tokens it is done, and right with .9, or cut, and right with .2. With hints after 100
    and 200 there are left (L - 100) / 2, then (that - 100) / 2, which must be 100 at most.

    So L <= 700: of 801 lengths 601, and .9 x .7503 + .2 x .2497 = .7252. Without hints only L <=
    300: .9 x .251 + .2 x .749 = .376. 600 traces: standard deviation .0182; five of those, P(false
    alarm) < 1e-6.
    """
    n_right = 0
    for seed in range(600):
        rng = random.Random(seed)
        state = {"left": float(rng.randint(100, 900)), "done": 0.0}

        def world(
            request: Request, state: dict[str, float] = state, rng: random.Random = rng
        ) -> Trace:
            if not request.stop:
                key = "R" if rng.random() < (0.9 if state["done"] else 0.2) else "W"
                return Trace(0, key, (1,), answer=Answer(key, key))
            state["left"] /= 2 if request.suffix else 1
            n_tokens = request.max_new_tokens or 0
            if state["left"] <= n_tokens:
                state["done"] = 1.0
                return piece(round(state["left"]), Finish.STOP, END)
            state["left"] -= n_tokens
            return piece(n_tokens, Finish.RULE if request.checkpoint else Finish.LENGTH)

        pool = list(
            explore(ConciseHint(n=1, interval=100, growth=0.0, thinking=300), world).traces.values()
        )
        n_right += Majority()(pool)[0].answer.key == "R"
    assert n_right / 600 == pytest.approx(0.7252, abs=5 * 0.0182)
