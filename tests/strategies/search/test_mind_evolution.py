"""Mind Evolution: parents, migration, resets, prompts, and how right it is."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Purpose, Request, Trace, Verdict
from orchestrator.core.votes import conclude
from orchestrator.testing import PROBLEM, explore
from strategies.search.mind_evolution import EvaluatedSolution, MindEvolution, different
from strategies.selectors.by_score import Best
from strategies.selectors.majority import Majority


def solution(ordinal: int, score: float, answer: str = "A") -> EvaluatedSolution:
    return EvaluatedSolution(
        Trace(ordinal, f"It is {answer}.", answer=Answer(answer, answer)), score
    )


def scored(answer: str, score: float, note: str = "") -> Trace:
    return Trace(
        0,
        f"It is {answer}.",
        answer=Answer(answer, answer),
        verdicts=(Verdict("v", score, note=note),),
    )


def ordinals(island: list[EvaluatedSolution]) -> list[int]:
    return [s.attempt.ordinal for s in island]


# --- the operators


def test_parents_are_drawn_by_boltzmann_weights_and_none_with_one_in_six() -> None:
    """0 to 5 parents, each number with 1/6.

    The first of two is the better with 1 / (1 + exp(-.2 / .1)) = .8808.

    6,000 draws: standard deviations .0048 and, of the 5,000 with parents, .0046; five of those,
    P(false alarm) < 1e-6.
    """
    evolution, rng = MindEvolution("v"), random.Random(1)
    island = [solution(0, 0.5), solution(1, 0.7)]
    casts = [evolution.draw_parents(island, rng) for _ in range(6_000)]
    sizes = Counter(map(len, casts))
    assert sizes[0] / 6_000 == pytest.approx(1 / 6, abs=0.024)
    assert sizes[2] / 6_000 == pytest.approx(4 / 6, abs=0.031), (
        "2, 3, 4 and 5 are wanted, and two are there"
    )
    firsts = [cast[0].attempt.ordinal for cast in casts if cast]
    assert sum(firsts) / len(firsts) == pytest.approx(1 / (1 + math.exp(-2)), abs=0.024)
    assert all(len({*ordinals(cast)}) == len(cast) for cast in casts), "without replacement"


def test_the_best_emigrate_to_the_next_island() -> None:
    """Two each, in a ring; copies, so that none leaves, and none arrives twice."""
    islands = [
        [solution(0, 0.1), solution(1, 0.9), solution(2, 0.5)],
        [solution(3, 0.2)],
        [solution(4, 0.3), solution(1, 0.9)],
    ]
    moved = MindEvolution("v", islands=3, emigrants=2).migrated(islands)
    assert [ordinals(i) for i in moved] == [[0, 1, 2, 4], [3, 1, 2], [4, 1, 3]]


def test_the_worst_islands_begin_anew_from_the_best_of_all() -> None:
    """Means .8, .1, .55, .2: the second and the fourth.

    Of the best four (.9 A, .8 A, .7 A, .6 B) two with different answers.
    """
    islands = [
        [solution(0, 0.9), solution(1, 0.8), solution(2, 0.7)],
        [solution(3, 0.1, "C")],
        [solution(4, 0.6, "B"), solution(5, 0.5, "C")],
        [solution(6, 0.2, "D")],
    ]
    new = MindEvolution("v", candidates=4, survivors=2).reset(islands)
    assert [ordinals(i) for i in new] == [[0, 1, 2], [0, 4], [4, 5], [0, 4]]
    assert ordinals(different([solution(i, 1 - i / 10, a) for i, a in enumerate("AABAB")], 4)) == [
        0,
        2,
        1,
        4,
    ]


# --- the conversation


def test_a_conversation_is_critic_and_author_in_turns() -> None:
    """A fresh attempt, then twice a critic who sees it with the evaluator's words, and an author
    who sees the critique too.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return (
            Trace(0, "Mind the units.")
            if request.purpose is Purpose.VERIFY
            else scored("A", 0.25, "the sum is off")
        )

    session = explore(
        MindEvolution("v", islands=1, conversations=1, turns=3, generations=1, reset_islands=0),
        world,
    )
    assert session.error == ""
    assert [(r.purpose, r.subjects, r.verifiers) for r in requests] == [
        (Purpose.SOLVE, (), ("v",)),
        (Purpose.VERIFY, (), ()),
        (Purpose.AGGREGATE, (0,), ("v",)),
        (Purpose.VERIFY, (), ()),
        (Purpose.AGGREGATE, (2,), ("v",)),
    ]
    critic, author = str(requests[1].prompt), str(requests[2].prompt)
    for text in (str(PROBLEM.prompt), "It is A.", "Score 0.25 of 1. the sum is off"):
        assert text in critic
        assert text in author
    assert "Mind the units." in author


def test_it_takes_as_many_solutions_as_published_and_no_more() -> None:
    """4 islands x 5 conversations x 4 turns x 10 generations = 800, when nothing is solved."""
    session = explore(MindEvolution("v"), lambda r: scored("A", 0.5))
    assert sum(t.purpose is not Purpose.VERIFY for t in session.traces.values()) == 800
    assert session.error == ""


def test_it_ends_when_a_solution_is_solved() -> None:
    """The third attempt of the first generation is.

    Conversations that stand take no further turn, and no generation follows.
    """
    session = explore(MindEvolution("v"), lambda r: scored("A", 1.0 if r.ordinal == 2 else 0.5))
    assert len(session.traces) <= 20 + 2, (
        "20 first attempts were in flight, and the first two had come to their critics"
    )
    strict = explore(MindEvolution("v", solved=0.5), lambda r: scored("A", 0.5))
    assert len(strict.traces) == 20


# --- simulated truth


def test_it_is_as_right_as_its_closed_form_and_no_majority_vote() -> None:
    """One island, one conversation of two turns, two generations, at most one parent.

    Fresh attempts are right with .1, others with .3.

    Wrong in the first generation: .9 x .7 = .63. In the second with a parent or without, each with
    1/2: .7 x .7 or .9 x .7, so .56. Right with 1 - .63 x .56 = .6472. 400 problems: standard
    deviation .0239; five of those, P(false alarm) < 1e-6. The vote of the same pools is right only
    where the first attempt is: .1.
    """
    evolution = MindEvolution(
        "v", islands=1, conversations=1, turns=2, generations=2, parents=1, reset_islands=0
    )
    n_best = n_majority = 0
    for seed in range(400):

        def world(request: Request, seed: int = seed) -> Trace:
            chance = 0.1 if request.purpose is Purpose.SOLVE else 0.3
            right = random.Random(f"{seed} {request.ordinal}").random() < chance
            return (
                Trace(0, "Hm.")
                if request.purpose is Purpose.VERIFY
                else scored("R" if right else "W", 1.0 if right else 0.4)
            )

        pool = list(explore(evolution, world, Plan(seed=seed)).traces.values())
        result = conclude(PROBLEM, pool, Best("verdict:v"))
        n_best += result.answer is not None and result.answer.key == "R"
        n_majority += Majority()(pool)[0].answer.key == "R"
    assert n_best / 400 == pytest.approx(0.6472, abs=5 * 0.0239)
    assert n_majority / 400 < 0.2
