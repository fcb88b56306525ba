"""Early answering by entropy: the moving variance, the requests, when thinking ends.

Its accuracy and its length are compared with values computed by hand.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from orchestrator.core.values import Answer, Finish, Purpose, Request, Trace, Usage
from orchestrator.testing import explore
from strategies.selectors.majority import Majority
from strategies.thinking.early_answer import EarlyAnswer, MovingVariance

END = "</think>"


def thought(n_tokens: int = 10, *, finish: Finish = Finish.RULE, stop: str = "") -> Trace:
    return Trace(0, "...\n\n", (1,), finish, stop=stop, usage=Usage(output_tokens=n_tokens))


def probe(entropy: float) -> Trace:
    return Trace(
        0, "x", (1,), Finish.LENGTH, metrics={"mean_entropy": entropy}, usage=Usage(output_tokens=1)
    )


def test_the_moving_variance_by_hand() -> None:
    """Entropies 1, 0, 0 with weight 1/2: means 1, .5, .25.

    Variances 0, .5 x .25 = .125, .5 x .0625 + .5 x .125 = .09375.
    """
    entropies = MovingVariance(0.5)
    assert [entropies.add(h) for h in (1.0, 0.0, 0.0)] == pytest.approx([0.0, 0.125, 0.09375])


def requests_of(
    strategy: EarlyAnswer, entropies: list[float], pieces: list[Trace] | None = None
) -> list[Request]:
    """The requests: thinking comes in pieces (by default without end), probes have these
    entropies.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        if request.purpose is Purpose.PROBE:
            return probe(entropies[sum(r.purpose is Purpose.PROBE for r in requests) - 1])
        if not request.stop:
            return Trace(0, "42", (1,), answer=Answer("42", "42"))
        return pieces[sum(bool(r.stop) for r in requests) - 1] if pieces else thought()

    assert explore(strategy, world).error == ""
    return requests


def test_it_is_probed_after_each_paragraph_and_told_to_answer_when_it_has_settled() -> None:
    """Equal entropies have variance 0.

    With a warm-up of 1 it may end at the third probe, and then says the tag and the closing words.
    """
    requests = requests_of(EarlyAnswer(n=1, warm_up=1, thinking=100, answer=7), [0.5] * 9)
    assert [(r.parent, r.suffix, r.max_new_tokens, r.purpose.value) for r in requests] == [
        (None, "", 100, "solve"),
        (0, END + "\n", 1, "probe"),
        (0, "", 90, "solve"),
        (2, END + "\n", 1, "probe"),
        (2, "", 80, "solve"),
        (4, END + "\n", 1, "probe"),
        (4, END + "\n\nFinal Answer:", 7, "solve"),
    ]
    assert all(r.stop == (END,) for r in requests if r.rules)


@pytest.mark.parametrize(
    ("last", "suffix"),
    [
        (thought(stop=END, finish=Finish.STOP), END),
        (thought(finish=Finish.LENGTH), END + "\n\nFinal Answer:"),
        (thought(n_tokens=99), END + "\n\nFinal Answer:"),
        (thought(finish=Finish.STOP), None),
        (thought(finish=Finish.FAILED), None),
    ],
)
def test_thinking_that_ends_otherwise_is_not_probed(last: Trace, suffix: str | None) -> None:
    """By its own tag it answers, cut off by its limit it is closed.

    A text that ended has answered, and nothing follows a failure.
    """
    requests = requests_of(EarlyAnswer(n=1, thinking=100), [9.0], [thought(), last])
    assert [r.purpose.value for r in requests[:3]] == ["solve", "probe", "solve"]
    assert [r.suffix for r in requests[3:]] == ([] if suffix is None else [suffix])


def test_entropies_that_go_up_and_down_end_nothing() -> None:
    """It thinks until its tokens are used up: ten pieces of ten."""
    requests = requests_of(EarlyAnswer(n=1, warm_up=0, thinking=100), [0.1, 0.9] * 9)
    assert sum(bool(r.stop) for r in requests) == 10


def n_pieces(settled_at: int, most: int, weight: float, variance: float) -> int:
    """After how many pieces it answers when entropies alternate until `settled_at` and stay the
    same from there: numpy, all at once.
    """
    h = np.array([0.2 if i >= settled_at else float(i % 2) for i in range(most)])
    means, variances = [h[0]], [0.0]
    for value in h[1:]:
        means.append(weight * value + (1 - weight) * means[-1])
        variances.append(weight * (value - means[-1]) ** 2 + (1 - weight) * variances[-1])
    low = [i + 1 for i, v in enumerate(variances) if i >= 1 and v < variance]
    return min([*low, most])


def test_it_answers_as_rightly_and_as_soon_as_computed_by_hand() -> None:
    """Thinking helps (.9 right) once it has settled, at piece 2 to 10, each as likely.

    Before that .3. It may think 12 pieces.

    600 traces: standard deviation of the share .0123, of the mean number of pieces below .12; five
    of each, P(false alarm) < 1e-6 a side. Without an early answer all think 12 pieces; a trace that
    answered at once would be right with .3.
    """
    weight, variance, most = 0.7, 0.01, 12
    expected = {s: n_pieces(s, most, weight, variance) for s in range(2, 11)}
    right = sum(0.9 if n > s else 0.3 for s, n in expected.items()) / 9
    assert right > 0.85
    n_right = n_thought = 0
    for seed in range(600):
        rng = random.Random(seed)
        settled_at, counts = rng.randint(2, 10), {"pieces": 0}

        def world(
            request: Request,
            settled_at: int = settled_at,
            counts: dict[str, int] = counts,
            rng: random.Random = rng,
        ) -> Trace:
            if request.purpose is Purpose.PROBE:
                i = counts["pieces"] - 1
                return probe(0.2 if i >= settled_at else float(i % 2))
            if request.stop:
                counts["pieces"] += 1
                return thought()
            key = "R" if rng.random() < (0.9 if counts["pieces"] > settled_at else 0.3) else "W"
            return Trace(0, key, (1,), answer=Answer(key, key))

        strategy = EarlyAnswer(
            n=1, warm_up=0, timescale=weight, variance=variance, thinking=10 * most
        )
        pool = list(explore(strategy, world).traces.values())
        n_right += Majority()(pool)[0].answer.key == "R"
        n_thought += counts["pieces"]
    assert n_right / 600 == pytest.approx(right, abs=5 * 0.0147)
    assert n_thought / 600 == pytest.approx(sum(expected.values()) / 9, abs=0.6)
    assert n_thought / 600 < most - 1
