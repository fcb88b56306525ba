"""Speculative Thinking: the trigger table, which model writes what, and accuracy."""

from __future__ import annotations

import random

import pytest

from orchestrator.core.plan import Model, Plan
from orchestrator.core.session import Session
from orchestrator.core.values import Answer, Finish, Purpose, Request, Trace, Usage
from orchestrator.core.votes import conclude
from orchestrator.testing import PROBLEM, explore, trace
from strategies.selectors.majority import Majority
from strategies.thinking.speculative import (
    CHECK,
    Mood,
    SpeculativeThinking,
    Takeover,
    mood,
    verifies,
)

PLAN = Plan(models={"main": Model("a"), "large": Model("b")})


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("Wait, that is odd.", Mood.REFLECTION),
        ("Alternatively, hold on.", Mood.REFLECTION),
        ("Yes, I am confident.", Mood.AFFIRMATION),
        ("So the final answer is 5.", Mood.AFFIRMATION),
        ("The sum is 12.", Mood.STATEMENT),
        ("", Mood.STATEMENT),
        ("Yes. But wait.", Mood.REFLECTION),  # one each: a tie is reflection
        ("Yes, yes, but wait.", Mood.AFFIRMATION),  # two against one
        ("Consider another case.", Mood.REFLECTION),
        ("At the checkout she paid.", Mood.REFLECTION),  # parts of words count, as released
    ],
)
def test_a_probe_is_classified_by_its_keywords(probe: str, expected: Mood) -> None:
    """Section 3 and the released code: counts of substrings, lower case."""
    assert mood(probe) is expected


def test_only_verification_words_verify() -> None:
    """They are part of the reflection words; "wait" is none of them."""
    assert [
        verifies(text)
        for text in (
            "Let me VERIFY.",
            "Think again!",
            "Recap:",
            "Double-check it.",
            "Wait.",
            "Yes.",
        )
    ] == [True] * 4 + [False] * 2


def test_the_trigger_table() -> None:
    """Probe: 0 or 20 tokens.

    Sentence: 125 when it verifies; at the 15th reflection the check, 125; then 150 at the 20th
    further one.
    """
    takeover = Takeover()
    assert [takeover.instead_of_probe(text) for text in ("It is 4.", "Yes.", "Wait.")] == [
        0,
        20,
        20,
    ]
    assert takeover.after_sentence("It is 4.") == []
    assert takeover.after_sentence("Yes, done.") == []
    assert takeover.after_sentence("Let me verify.") == [("", 125)]  # a reflection, too: the first
    seen = [takeover.after_sentence("Wait.") for _ in range(13)]
    assert seen == [[]] * 13
    assert takeover.after_sentence("Check.") == [("", 125), (CHECK, 125)]
    assert [takeover.after_sentence("Wait.") for _ in range(19)] == [[]] * 19
    assert takeover.after_sentence("Wait.") == [(CHECK, 150)]


def test_limits_grow_to_their_ends() -> None:
    """reflection 125, 150, 175, 200, 200, ...; patience 15, 20, 25, 30, 30, ..."""
    takeover = Takeover()
    lengths, tokens = [], []
    for _ in range(6):
        n = 1
        while not (more := takeover.after_sentence("Wait.")):
            n += 1
        lengths.append(n)
        tokens.append(more[0][1])
    assert lengths == [15, 20, 25, 30, 30, 30]
    assert tokens == [125, 150, 175, 200, 200, 200]


def written(
    texts: dict[tuple[str, int | None], str], n_chunks: int
) -> tuple[Session, list[Request]]:
    """Explore one trace: what a model writes at which length.

    The small model's chunk number `n_chunks` ends it.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        chunk = bool(request.rules)
        n_done = sum(bool(r.rules) for r in requests)
        last = chunk and n_done == n_chunks
        finish = Finish.STOP if last else Finish.RULE if chunk else Finish.LENGTH
        text = texts.get((request.model, request.max_new_tokens if not chunk else None), "So.\n\n")
        return Trace(
            0,
            text,
            (1,),
            finish,
            answer=Answer("A", "A") if last else None,
            usage=Usage(output_tokens=10),
        )

    return explore(SpeculativeThinking("large", n=1), world, PLAN), requests


def shape(requests: list[Request]) -> list[tuple[str, int | None, int | None, str]]:
    return [(r.model, r.parent, None if r.rules else r.max_new_tokens, r.suffix) for r in requests]


def test_a_statement_drops_the_probe_and_the_small_model_goes_on() -> None:
    """The second chunk continues the first one, not the probe, which is charged to probing."""
    session, requests = written({}, 2)
    assert shape(requests) == [("main", None, None, ""), ("main", 0, 20, ""), ("main", 0, None, "")]
    assert [t.purpose for t in session.traces.values()] == [
        Purpose.SOLVE,
        Purpose.PROBE,
        Purpose.SOLVE,
    ]


def test_a_reflection_is_written_by_the_large_model_in_place_of_the_probe() -> None:
    """Its 20 tokens continue the chunk; as they verify, 125 follow.

    The small model continues those.
    """
    _, requests = written({("main", 20): "Wait, no.", ("large", 20): "Let me verify."}, 2)
    assert shape(requests) == [
        ("main", None, None, ""),
        ("main", 0, 20, ""),
        ("large", 0, 20, ""),
        ("large", 2, 125, ""),
        ("main", 3, None, ""),
    ]


def test_too_much_reflection_is_told_to_check() -> None:
    """Sixteen chunks with fifteen reflections between them.

    The fifteenth brings the sentence and 125 tokens more.
    """
    _, requests = written({("main", 20): "Wait.", ("large", 20): "Hold on."}, 16)
    prompted = [r for r in requests if r.suffix]
    assert [(r.model, r.suffix, r.max_new_tokens) for r in prompted] == [("large", CHECK, 125)]
    assert requests.index(prompted[0]) == 15 * 3


def test_a_small_model_that_does_not_reason_is_helped_after_every_blank_line() -> None:
    """`always` 100: no probes, the large model writes 100 tokens each time."""
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        finish = (
            Finish.STOP if len(requests) == 5 else Finish.RULE if request.rules else Finish.LENGTH
        )
        return Trace(0, "So.\n\n", (1,), finish, usage=Usage(output_tokens=10))

    explore(SpeculativeThinking("large", n=1, always=100), world, PLAN)
    assert [(r.model, r.max_new_tokens) for r in requests] == [
        ("main", 1024),
        ("large", 100),
    ] * 2 + [("main", 1024)]


def test_the_limit_of_tokens_ends_a_trace() -> None:
    """25 tokens, 10 a piece: the third piece may have 5, and there is no fourth.

    Probes do not count.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return Trace(
            0,
            "So.\n\n",
            (1,),
            Finish.RULE,
            usage=Usage(output_tokens=min(10, request.max_new_tokens or 10)),
        )

    explore(SpeculativeThinking("large", n=1, tokens=25), world, PLAN)
    assert [r.max_new_tokens for r in requests if r.rules] == [25, 15, 5]


def test_a_piece_that_fails_ends_its_trace_and_no_other() -> None:
    """Two traces side by side; the first fails at its first chunk."""

    def world(request: Request) -> Trace:
        if request.ordinal == 0:
            return trace(0, finish=Finish.FAILED)
        return Trace(
            0,
            "The answer is 4.",
            (1,),
            Finish.STOP,
            answer=Answer("4", "4"),
            usage=Usage(output_tokens=3),
        )

    session = explore(SpeculativeThinking("large", n=2), world, PLAN)
    assert len(session.traces) == 2
    assert Majority()(list(session.traces.values()))[0].answer.key == "4"


def test_it_is_right_as_often_as_its_closed_form_says() -> None:
    """Four places to err.

    At each, the probe reflects with .5, and then the large model is right with .95, else the small
    one with .6.

    (.5 x .95 + .5 x .6)^4 = .775^4 = .3608; the small model alone .1296. 400 runs: standard
    deviation .024; five of those, P < 1e-6.
    """
    n_right = sum(_one_run(seed) for seed in range(400))
    assert n_right / 400 == pytest.approx(0.775**4, abs=0.12)


def _one_run(seed: int) -> bool:
    """Whether one trace is right, in the world of the test above."""
    # places passed, and whether all was right so far
    state: dict[int | None, tuple[int, bool]] = {None: (-1, True)}
    helped: set[int] = set()

    def world(request: Request) -> Trace:
        rng = random.Random(f"{seed} {request.ordinal}")
        place, fine = state[request.parent]
        if request.purpose is Purpose.PROBE:
            return Trace(
                0,
                "Wait." if rng.random() < 0.5 else "So.",
                (1,),
                Finish.LENGTH,
                usage=Usage(output_tokens=1),
            )
        if request.model == "large":
            state[request.ordinal] = place + 1, fine and rng.random() < 0.95
            helped.add(request.ordinal)
            return Trace(0, "Hold on.", (1,), Finish.LENGTH, usage=Usage(output_tokens=1))
        # the small model passes the place itself; the first chunk is before the first place
        if request.parent not in helped:
            place, fine = place + 1, fine and (place < 0 or rng.random() < 0.6)
        state[request.ordinal] = place, fine
        answer = Answer("R", "R") if fine else Answer("W", "W")
        done = place == 4
        return Trace(
            0,
            "So.",
            (1,),
            Finish.STOP if done else Finish.RULE,
            answer=answer if done else None,
            usage=Usage(output_tokens=1),
        )

    session = explore(SpeculativeThinking("large", n=1), world, PLAN)
    answer = conclude(PROBLEM, list(session.traces.values()), Majority()).answer
    return answer is not None and answer.key == "R"
