"""Strategies made of strategies, all against closed forms.

Refine, staged, cascades of any strategy, the choice by difficulty.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import comb
from typing import Any

import pytest

from orchestrator.core.plan import Model, Plan
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.session import Session
from orchestrator.core.values import Message, PluginSpec, Request, Trace
from orchestrator.core.votes import conclude
from orchestrator.plan import registry
from orchestrator.testing import PROBLEM, explore, trace

POOLS = Plan(models={"small": Model("a"), "large": Model("b")})


def made(name: str, **options: object) -> Any:
    return registry.load("strategies", PluginSpec(name, options))


def chosen(text: str) -> Any:
    return registry.load("selectors", registry.one_spec("--selector", text))


def led(session: Session, selector: Selector) -> str | None:
    answer = conclude(PROBLEM, list(session.traces.values()), selector).answer
    return answer.key if answer else None


def world(
    seed: int,
    right: Callable[[Request, list[str]], float],
    wrong: Callable[[Request], str] = lambda r: "W",
) -> Any:
    """Attempts are right ("R") with the chance that `right` gives, by the answers of the subjects.

    A verifier `v` knows which are.
    """
    answers: dict[int, str] = {}

    def reply(request: Request) -> Trace:
        chance = right(request, [answers[s] for s in request.subjects])
        answer = (
            "R" if random.Random(f"{seed} {request.ordinal}").random() < chance else wrong(request)
        )
        answers[request.ordinal] = answer
        return trace(0, answer, verdicts={"v": float(answer == "R")})

    return reply


def runs(
    strategy: Strategy,
    n: int,
    right: Callable[[Request, list[str]], float],
    plan: Plan | None = None,
    **more: Any,
) -> list[Session]:
    plan = plan or Plan()
    return [
        explore(strategy, world(seed, right, **more), replace(plan, seed=seed)) for seed in range(n)
    ]


def accuracy(sessions: list[Session], selector: str) -> float:
    return sum(led(session, chosen(selector)) == "R" for session in sessions) / len(sessions)


def most(n: int, p: float) -> float:
    """P[more than half of n are right]."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1))


def revised(
    first: float, after_right: float, after_wrong: float
) -> Callable[[Request, list[str]], float]:
    """The chance of an attempt: `first` on the bare question, else by whether the leading solution
    shown to it is right.
    """
    return lambda _, shown: first if not shown else after_right if shown[0] == "R" else after_wrong


# --- refine


def test_a_round_is_shown_the_leading_solution_in_a_conversation_and_names_it() -> None:
    """The question, the reply, the next message.

    Round after round on the question itself, never on a conversation about one.
    """
    seen: list[Request] = []

    def answer_of(request: Request) -> str:
        seen.append(request)
        return "ABBCCC"[request.ordinal] if request.ordinal < 6 else "D"

    explore(made("refine", inner="consistency n=3"), answer_of)
    [ask, reply, improve] = seen[3].prompt
    assert (ask, reply) == (
        Message("user", PROBLEM.prompt),
        Message("assistant", "The answer is B."),
    )
    assert improve.content.startswith("Check what is above")
    assert [r.subjects for r in seen] == [()] * 3 + [(1,)] * 3 + [(3,)] * 3
    assert seen[6].prompt == (ask, Message("assistant", "The answer is C."), improve)


def test_a_round_without_an_answer_leaves_what_is_shown_as_it_was() -> None:
    """Nothing to improve: the next round sees what this one saw."""
    seen: list[Request] = []

    def answer_of(request: Request) -> str | None:
        seen.append(request)
        return "A" if request.ordinal == 1 else None

    explore(made("refine", inner="consistency n=2", rounds=3), answer_of)
    assert [r.subjects for r in seen] == [(), (), (1,), (1,), (1,), (1,), (1,), (1,)]


def test_refined_votes_are_right_as_the_chain_says() -> None:
    """Three attempts right with .4 lead right with .352.

    Three more with .9 or .3 vote right with .972 or .216: .4822.

    300 runs: standard deviation .0288; five of those, P(false alarm) < 1e-6. The first round alone:
    .352.
    """
    exact = most(3, 0.4) * most(3, 0.9) + (1 - most(3, 0.4)) * most(3, 0.3)
    strategy = made("refine", inner="consistency n=3", rounds=1)
    assert accuracy(runs(strategy, 300, revised(0.4, 0.9, 0.3)), "final") == pytest.approx(
        exact, abs=0.145
    )


def test_refined_best_of_n_follows_its_selector_and_not_the_vote() -> None:
    """Of four attempts right with .3 the best is right with .7599.

    Then with 1 - .5^4, else 1 - .8^4: .854. By majority about .36.

    300 runs: standard deviation .0204; five of those, P(false alarm) < 1e-6.
    """
    any_right = 1 - 0.7**4
    exact = any_right * (1 - 0.5**4) + (1 - any_right) * (1 - 0.8**4)
    strategy = made("refine", inner="consistency n=4", select="best by=verdict:v", rounds=1)
    assert registry.own_selector(
        PluginSpec("refine", {"select": "best by=verdict:v"})
    ) == PluginSpec("final", {"vote": {"name": "best", "by": "verdict:v"}})
    sessions = runs(strategy, 300, revised(0.3, 0.5, 0.2))
    assert accuracy(sessions, "final vote='best by=verdict:v'") == pytest.approx(exact, abs=0.102)
    assert accuracy(sessions, "majority") < 0.6


@pytest.mark.slow
def test_two_levels_of_refinement_are_a_chain_of_four() -> None:
    """Two rounds of two rounds, one attempt each.

    Right with .3, then from .8 / .1 onwards 3 steps: p -> .1 + .7 p.

    .3 -> .31 -> .317 for one inner refinement after another: the outer's second round begins on the
    question with the leading solution, so all four attempts are one chain: .3, .31, .317, .3219.
    400 runs: standard deviation .0234; five of those, P(false alarm) < 1e-6.
    """
    p = 0.3
    for _ in range(3):
        p = 0.1 + 0.7 * p
    strategy = made(
        "refine", rounds=1, inner={"name": "refine", "rounds": 1, "inner": "consistency n=1"}
    )
    sessions = runs(strategy, 400, revised(0.3, 0.8, 0.1))
    assert {len(s.traces) for s in sessions} == {4} == {strategy.n_planned}
    assert accuracy(sessions, "final") == pytest.approx(p, abs=0.117)


# --- staged and cascades


def test_the_second_stage_runs_where_the_first_does_not_agree() -> None:
    """Two answers, each with .5.

    At least three of four agree with .625, so 4 + 8 x .375 = 7 traces a problem.

    400 runs: standard deviation 8 sqrt(.625 x .375) / 20 = .194; five of those, P(false alarm) <
    1e-6.
    """
    strategy = made("staged", stages=["consistency n=4", "consistency n=8"])
    sessions = runs(strategy, 400, lambda *_: 0.5)
    assert {len(s.traces) for s in sessions} == {4, 12}
    assert sum(len(s.traces) for s in sessions) / 400 == pytest.approx(7.0, abs=0.97)
    assert strategy.n_planned == 12


def test_stages_share_their_vote_and_take_the_last_ones_selector() -> None:
    """A stage that decides by a vote of its own decides by it here.

    A stage whose width is unknown makes the whole one's unknown.
    """
    assert (
        registry.own_selector(PluginSpec("staged", {"stages": ["consistency", "sounding"]})).name
        == "discounted"
    )
    assert registry.own_selector(PluginSpec("staged")).name == "majority"
    assert made("staged", stages=["consistency", "rsa"]).n_planned is None


def test_a_cascade_asks_each_model_by_any_strategy() -> None:
    """Four unanimous traces of the small model stop adaptive sampling, and their agreement the
    cascade; else the large one votes.
    """
    strategy = made("cascade", models=["small", "large"], inner="adaptive n=8 wave=4")
    agreed = explore(strategy, lambda r: "A", POOLS)
    assert [t.model for t in agreed.traces.values()] == ["small"] * 4
    split = explore(strategy, lambda r: "A" if r.model == "large" else "BC"[r.ordinal % 2], POOLS)
    assert [t.model for t in split.traces.values()] == ["small"] * 8 + ["large"] * 4
    assert led(split, chosen("final")) == "A"
    assert strategy.n_planned == 16


# --- the choice by difficulty


@pytest.mark.parametrize(
    ("answers", "by_agreement"),
    [
        ("AAAA", "easy"),
        ("AAAB", "easy"),
        ("AABB", "medium"),
        ("AABC", "medium"),
        ("ABCD", "hard"),
        ("A---", "hard"),
        ("----", "hard"),
    ],
)
def test_bins_of_four_first_traces_by_agreement(answers: str, by_agreement: str) -> None:
    """Three of four is easy, two medium, one hard; silence counts against agreement."""
    seen = [trace(i, None if a == "-" else a) for i, a in enumerate(answers)]
    assert made("compute-optimal").bin(seen) == by_agreement


@pytest.mark.parametrize(
    ("scores", "by_verifier"),
    [((0.9, 0.8, 0.7, 0.6), "easy"), ((0.9, 0.5, 0.1, 0.1), "medium"), ((0.1,) * 4, "hard")],
)
def test_bins_by_the_verifiers_mean_do_not_ask_whether_traces_agree(
    scores: tuple[float, ...], by_verifier: str
) -> None:
    """Means .75, .4 and .1: four equal wrong answers are hard, whatever they agree on."""
    seen = [trace(i, "A", verdicts={"v": s}) for i, s in enumerate(scores)]
    assert made("compute-optimal", verifier="v").bin(seen) == by_verifier


ARMS: Mapping[str, object] = {"easy": "", "medium": "consistency n=2", "hard": "consistency n=6"}


def test_a_verifier_that_failed_makes_no_question_hard() -> None:
    """One of four could not be scored: the mean is that of the three; an abstention counts 0.

    Without any verdict there is no estimate.
    """
    verified = [trace(i, "A", verdicts={"v": score}) for i, score in enumerate((0.9, 0.8, 0.7))]
    strategy = made("compute-optimal", verifier="v")
    assert strategy.bin([*verified, trace(3, "B")]) == "easy"
    assert strategy.bin([*verified, trace(3)]) == "medium"
    assert strategy.bin([trace(0), trace(1)]) == "hard"
    with pytest.raises(ValueError, match="none of the first traces carries a verdict of 'v'"):
        strategy.bin([trace(0, "A"), trace(1)])


def test_each_bin_gets_its_arm_as_often_as_the_binomial_says() -> None:
    """Right with .5, every wrong answer another.

    Of four, 3 or 4 right .3125, 2 right .375, else hard: 4 + 2 x .375 + 6 x .3125 = 6.625.

    400 runs: standard deviation of a cost 2.42, of the mean .121; five of those, P(false alarm) <
    1e-6.
    """
    sessions = runs(
        made("compute-optimal", **ARMS), 400, lambda *_: 0.5, wrong=lambda r: f"W{r.ordinal}"
    )
    assert {len(s.traces) for s in sessions} == {4, 6, 10}
    assert sum(len(s.traces) for s in sessions) / 400 == pytest.approx(6.625, abs=0.61)


def test_with_a_verifier_the_hard_arm_finds_what_the_vote_does_not() -> None:
    """Right with .2, all wrong alike, a verifier without error.

    None of four right is hard, and so are 8 more: 1 - .8^12 = .9313.

    300 runs: standard deviation .0146; five of those, P(false alarm) < 1e-6. The vote of these
    pools is right where most are: below .1.
    """
    spec = PluginSpec(
        "compute-optimal", {"verifier": "v", "easy": "", "medium": "", "hard": "consistency n=8"}
    )
    sessions = runs(registry.load("strategies", spec), 300, lambda *_: 0.2)
    assert registry.own_selector(spec) == PluginSpec("best-weighted", {"by": "verdict:v"})
    assert accuracy(sessions, "best-weighted by=verdict:v") == pytest.approx(1 - 0.8**12, abs=0.073)
    assert accuracy(sessions, "majority") < 0.2


def test_the_dearest_way_is_the_full_one() -> None:
    """4 + 16 by default; unknown where an arm does not say."""
    assert made("compute-optimal").n_planned == 20
    assert made("compute-optimal", hard="rsa").n_planned is None
