"""`deepen`: where it stops, which way it moves, and what that saves, against its stated rule."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.core.protocols import Selector
from orchestrator.core.session import Session
from orchestrator.core.values import Request, Trace, Usage
from orchestrator.testing import PROBLEM, explore, trace
from strategies.sampling.deepen import Deepen
from strategies.selectors.depth_weighted import DepthWeighted
from strategies.selectors.majority import Majority

PROMPT, OUTPUT = 20, 5  # tokens of each trace


def priced(request: Request, answer: str | None) -> Trace:
    """A trace whose price is its tokens times two layers and the depth.

    One layer before the think block, one in it, one after.
    """
    depth = request.depth or 1
    return replace(
        trace(request.ordinal, answer),
        usage=Usage(PROMPT, 0, OUTPUT, (PROMPT + OUTPUT) * (2 + depth)),
    )


def path(strategy: Deepen, answers: dict[int, str]) -> str:
    """The depths it visits when the votes at each depth come out as these words, in order.

    `-` abstains.
    """
    left = {depth: list(words) for depth, words in answers.items()}

    def answer_of(request: Request) -> Trace:
        word = left[request.depth or 1].pop(0)
        return priced(request, None if word == "-" else word)

    found = explore(strategy, answer_of)
    assert not found.error
    return "".join(str(t.depth) for t in found.traces.values())


# Where it stops


def test_a_deep_trace_confirms_a_shallow_verdict() -> None:
    """Four that agree are sure at 0.95 (31/32); one deep trace says the same, and it is over."""
    assert path(Deepen((1, 8)), {1: "AAAA", 8: "A"}) == "11118"


def test_without_confirmation_the_shallow_verdict_stands() -> None:
    assert path(Deepen((1, 8), confirm=0), {1: "AAAA"}) == "1111"


def test_a_deep_trace_that_says_otherwise_hands_over_to_the_last_depth() -> None:
    """It counts there: three more of its kind make the four that are sure.

    An abstention confirms nothing.
    """
    assert path(Deepen((1, 4, 8)), {1: "AAAA", 8: "BBBB"}) == "11118888"
    assert path(Deepen((1, 4, 8)), {1: "AAAA", 8: "-BBBB"}) == "111188888"


def test_at_the_last_depth_it_widens_until_sure_or_spent() -> None:
    """Beta at .95: (7, 2) is not enough, (8, 2) is. Never more than n."""
    assert path(Deepen((8,)), {8: "AABBAAAAAA"}) == "8" * 10
    assert path(Deepen((8,), n=9), {8: "AB" * 8}) == "8" * 9


def test_it_asks_for_no_more_than_could_decide() -> None:
    """By calibration at .95.

    Accuracy 0.9 and three wrong answers make two votes right with 1 / (1 + 3 / 27^2) = .996, one
    with .9.
    """
    sharp = Deepen((8,), accuracies=(0.9,), alternatives=3.0)
    assert path(sharp, {8: "AA"}) == "88"
    assert path(replace(sharp, confidence=0.89), {8: "A"}) == "8"
    # from 1-1 one more may do: 2-1 is right with 729 / (729 + 27 + 2) = .962
    assert path(sharp, {8: "ABA"}) == "888"
    assert path(replace(sharp, confidence=0.97), {8: "ABAA"}) == "8888"


def test_votes_no_better_than_chance_decide_nothing() -> None:
    """Accuracy 0.25 among four answers: any number of agreeing votes leaves the odds at one."""
    assert (
        path(Deepen((1, 8), n=6, accuracies=(0.25, 0.9), alternatives=3.0), {1: "AAAA", 8: "BB"})
        == "111188"
    )


# Which way it moves


@pytest.mark.parametrize(
    ("shallow", "moves_on"), [("AAB-", True), ("ABCD", True), ("----", True), ("AAA-", False)]
)
def test_it_deepens_where_the_vote_is_split_and_widens_where_it_nearly_agrees(
    shallow: str, moves_on: bool
) -> None:
    """At depth 1 a trace costs 3 units, a first wave at 8 at most 4 * 24 (the ratio of depths is
    all that is known of a depth not tried).

    Three that agree need a few more of the same; of a split vote, hundreds would be needed, more
    than n leaves.
    """
    taken = path(Deepen((1, 8), n=16), {1: shallow + "AAAAAAAAAAAA", 8: "AAAA" * 4})
    assert (taken[4] == "8") == moves_on


def test_price_decides_between_two_ways_that_both_would_do() -> None:
    """3-1 wants more at the posterior shares 4/7 and 2/7.

    Cheap beside a wave eight times as deep, dear beside one half as deep again.
    """
    votes = {2: "AAAB" + "A" * 36, 3: "A" * 40, 16: "A" * 40}
    assert path(Deepen((2, 16), n=64), votes)[4] == "2"
    assert path(Deepen((2, 3), n=64), votes)[4] == "3"


# What it saves

Reply = Callable[[Request], Trace]


def looped_model(rng: random.Random, accuracy: float, bias: float) -> Reply:
    """A problem of 1 to 8 hops.

    Right with `accuracy` from that depth on, else a guess of four, with `bias` always the same
    wrong one.
    """
    hops = rng.randint(1, 8)

    def reply(request: Request) -> Trace:
        draw = random.Random(request.seed + hops)
        if (request.depth or 1) >= hops:
            return priced(request, "0" if draw.random() < accuracy else str(draw.randint(1, 3)))
        return priced(request, "1" if draw.random() < bias else str(draw.randint(0, 3)))

    return reply


def outcome(
    strategy: Deepen,
    n_problems: int,
    accuracy: float,
    bias: float = 0.0,
    selector: Selector | None = None,
) -> tuple[float, float]:
    """Accuracy of the vote, depth-weighted if no other is given, and layer-tokens a problem in
    units of one layer-pass of a trace.
    """
    selector = selector or DepthWeighted()
    n_right, spent = 0, 0
    for i in range(n_problems):
        session: Session = explore(
            strategy,
            looped_model(random.Random(i), accuracy, bias),
            problem=replace(PROBLEM, id=f"p{i}"),
        )
        traces = list(session.traces.values())
        n_right += selector(traces)[0].answer.key == "0"
        spent += sum(t.usage.layer_tokens for t in traces)
    return n_right / n_problems, spent / n_problems / (PROMPT + OUTPUT)


def majority_accuracy(n: int, accuracy: float) -> float:
    """Of `n` votes, 0 with `accuracy` and each of three others alike; ties shared.

    By 20,000 draws: standard error below .0016 here.
    """
    rng = random.Random(0)
    total = 0.0
    for _ in range(20_000):
        counts = Counter(rng.choices("0123", [accuracy, *[(1 - accuracy) / 3] * 3], k=n))
        top = max(counts.values())
        total += (counts["0"] == top) / sum(count == top for count in counts.values())
    return total / 20_000


@pytest.mark.parametrize("bias", [0.0, 0.9])
def test_calibrated_it_is_as_accurate_as_the_best_fixed_depth_for_half_the_cost(
    bias: float,
) -> None:
    """Also where shallow traces share a mistake nine times in ten.

    Then calibration knows that their votes are worse than chance.

    At depth 1, an eighth of the problems is within reach: accuracy .9 / 8 + 7 / 8 * (1 - bias) / 4,
    .331 or .134. At the depth that is needed it is .9. The best fixed setting is depth 8, width 8:
    .9997 right, for 8 traces of 10 layers = 80. At confidence .99 two agreeing deep traces are
    enough (P = .996), so 300 problems should lose about one: to lose more than 6 of a Poisson with
    mean 1.2 has P < 2e-3, and the draws are seeded, so the test cannot flicker. Price: a little
    over two deep traces, 24 of 80; for a first look, 12 more.
    """
    best = majority_accuracy(8, 0.9)
    right, spent = outcome(
        Deepen((8,), confidence=0.99, accuracies=(0.9,), alternatives=3.0), 300, 0.9, bias
    )
    assert right >= best - 6 / 300
    assert spent <= 80 / 2
    shallow = 0.9 / 8 + 7 / 8 * (1 - bias) / 4
    looked, paid = outcome(
        Deepen((1, 8), n=20, confidence=0.99, accuracies=(shallow, 0.9), alternatives=3.0),
        300,
        0.9,
        bias,
    )
    assert looked >= best - 6 / 300
    assert paid <= 80 / 2


def test_a_shared_shallow_mistake_decides_only_without_confirmation() -> None:
    """With bias .9 four shallow traces agree on the mistake with probability .925^4 = .73 where the
    depth does not suffice, 7 times in 8.

    Unconfirmed, that answer stands; a deep trace confirms it with probability 1/30. And it is the
    depths' vote: the majority of the same pools is wrong where the shallow traces are many, more
    than ten standard deviations (of .0354 at most) below.
    """
    trusting, _ = outcome(Deepen((1, 8), confirm=0), 200, 0.9, 0.9)
    careful, _ = outcome(Deepen((1, 8)), 200, 0.9, 0.9)
    assert trusting < 0.5
    assert careful > 0.93
    assert outcome(Deepen((1, 8)), 200, 0.9, 0.9, Majority())[0] < careful - 0.354
