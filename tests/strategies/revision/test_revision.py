"""Revision, recursive self-aggregation and cascades: what builds on what, and which votes count.

Their accuracy is compared with exact chains.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.session import Session
from orchestrator.core.values import Finish, Message, Purpose, Request, Sampling, Trace
from orchestrator.core.votes import agreement, conclude
from orchestrator.testing import PROBLEM, explore, pool, trace
from strategies.revision.revise import Revise
from strategies.revision.rsa import Rsa
from strategies.sampling.cascade import Cascade
from strategies.selectors.final import Final, generations, last_generation
from strategies.selectors.majority import Majority

TWO = {"small": Model("a"), "large": Model("b")}


class World:
    """`right(answers of the subjects, model)` is the chance that an attempt is right.

    Wrong ones all say W.
    """

    def __init__(self, right: Callable[[list[str], str], float], seed: int) -> None:
        self.right, self.seed = right, seed
        self.answers: dict[int, str] = {}

    def __call__(self, request: Request) -> str:
        chance = self.right([self.answers[s] for s in request.subjects], request.model)
        answer = "R" if random.Random(f"{self.seed} {request.ordinal}").random() < chance else "W"
        self.answers[request.ordinal] = answer
        return answer


def led(session: Session, selector: Selector) -> str | None:
    answer = conclude(PROBLEM, list(session.traces.values()), selector).answer
    return answer.key if answer else None


def accuracy(
    strategy: Strategy,
    right: Callable[[list[str], str], float],
    n_runs: int,
    plan: Plan | None = None,
) -> tuple[float, float]:
    """Return how often the last generation is right, and how often the majority of the whole pool
    is.
    """
    plan = plan or Plan()
    sessions = [
        explore(strategy, World(right, seed), replace(plan, seed=seed)) for seed in range(n_runs)
    ]
    return tuple(
        sum(led(s, selector) == "R" for s in sessions) / n_runs
        for selector in (Final(), Majority())
    )  # type: ignore[return-value]  # two


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


# --- which attempts vote


def test_generations_count_the_longest_chain_of_subjects() -> None:
    """0 and 1 are fresh, 2 builds on both, 3 on 1 and 2, 4 is fresh; a judge of 3 is no attempt."""
    traces = [
        trace(0, "A"),
        trace(1, "A"),
        replace(trace(2, "B", purpose=Purpose.AGGREGATE), subjects=(0, 1)),
        replace(trace(3, "C"), subjects=(1, 2)),
        trace(4, "A"),
        replace(trace(5, purpose=Purpose.VERIFY), subjects=(3,)),
    ]
    assert generations(traces) == {0: 0, 1: 0, 2: 1, 3: 2, 4: 0}
    assert [t.ordinal for t in last_generation(traces)] == [3]
    assert [c.answer.key for c in Final()(traces)] == ["C"]


def test_a_last_generation_without_an_answer_leaves_the_one_before_it() -> None:
    """A revision that failed or abstained takes nothing from what it was to revise."""
    traces = [
        trace(0, "A"),
        replace(trace(1), subjects=(0,)),
        replace(trace(2, finish=Finish.FAILED), subjects=(0,)),
    ]
    assert [c.answer.key for c in Final()(traces)] == ["A"]
    assert Final()(pool("- !")) == []


# --- revise


def test_a_revision_sees_the_last_attempts_of_its_chain() -> None:
    """memory 2: the fourth request shows attempts two and three, by turns, after the question in
    the plan's words.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return Trace(0, f"<think>hm</think>Try {len(requests)}.")

    plan = Plan(sampling=Sampling(system="Be brief."))
    explore(Revise(chains=1, revisions=3, memory=2), world, plan)
    talk = requests[3].prompt
    assert isinstance(talk, tuple)
    assert talk[:2] == (Message("system", "Be brief."), Message("user", str(PROBLEM.prompt)))
    assert [m.content for m in talk if m.role == "assistant"] == ["Try 2.", "Try 3."]
    assert [m.role for m in talk[1:]] == ["user", "assistant", "user", "assistant", "user"]
    assert [r.subjects for r in requests] == [(), (0,), (1,), (2,)]


def test_chains_run_side_by_side_and_end_at_a_failure() -> None:
    """Three chains are started at once; the one whose first attempt fails has no second."""
    session = Session(PROBLEM, Revise(chains=3, revisions=1), Plan())
    assert len(session.start()) == 3
    assert session.receive(trace(1, finish=Finish.FAILED)) == []
    assert len(session.receive(trace(0, "A"))) == 1


def test_a_chain_is_right_as_often_as_its_two_state_chain_says() -> None:
    """Right at first with .3; a revision mends with .4 and spoils with .1: p' = .9 p + .4 (1 - p).
    After three: .4 + .5 p -> .7375.

    300 runs: standard deviation .0254; five of those, P(false alarm) < 1e-6. The majority of all
    four attempts is another number.
    """
    exact = 0.3
    for _ in range(3):
        exact = 0.9 * exact + 0.4 * (1 - exact)
    assert exact == pytest.approx(0.7375)
    final, majority = accuracy(
        Revise(chains=1, revisions=3),
        lambda before, _: {"R": 0.9, "W": 0.4}[before[0]] if before else 0.3,
        300,
    )
    assert final == pytest.approx(exact, abs=0.127)
    assert final - majority > 0.127


# --- rsa


def test_each_new_candidate_is_made_of_k_different_ones_of_the_generation_before() -> None:
    """n = 5, k = 3, three generations.

    Subsets without replacement, of the last generation only, drawn again for each.
    """
    session = explore(Rsa(n=5, k=3, steps=3), lambda r: "A")
    assert len(session.traces) == 15
    for ordinal, t in session.traces.items():
        assert len(set(t.subjects)) == len(t.subjects) == (0 if ordinal < 5 else 3)
        assert all(s // 5 == ordinal // 5 - 1 for s in t.subjects)
    assert len({t.subjects for t in session.traces.values()}) > 3
    assert {t.purpose for t in session.traces.values() if t.ordinal >= 5} == {Purpose.AGGREGATE}


def test_subsets_are_drawn_uniformly() -> None:
    """Each of 4 is in half of the subsets of 2: 200 runs of 4 subsets, standard deviation of a
    share .0177; five of those.
    """
    drawn: Counter[int] = Counter()
    for seed in range(200):
        session = explore(Rsa(n=4, k=2, steps=2), lambda r: "A", Plan(seed=seed))
        drawn.update(s for t in session.traces.values() for s in t.subjects)
    assert all(n / 800 == pytest.approx(0.5, abs=0.089) for n in drawn.values())


def test_the_aggregation_prompt_holds_question_and_candidates_in_the_plans_words() -> None:
    """The system message and the template stay, so that the answer is stated as the plan wants it.

    One candidate is refined.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return Trace(0, f"Try {len(requests)}.")

    plan = Plan(sampling=Sampling(system="Be brief.", template="{prompt} Box it."))
    explore(Rsa(n=2, k=2, steps=2), world, plan)
    system, user = requests[2].prompt
    assert isinstance(system, Message)
    assert isinstance(user, Message)
    assert system == Message("system", "Be brief.")
    assert user.content.startswith(f"{PROBLEM.prompt} Box it.\n\nBelow are 2 candidate solutions")
    assert "Candidate 1:\nTry " in user.content
    assert "Candidate 2:\nTry " in user.content
    requests.clear()
    explore(Rsa(n=1, k=1, steps=2), world, plan)
    assert "Below is a candidate solution" in str(requests[1].prompt)


def test_the_last_population_is_right_as_often_as_its_markov_chain_says() -> None:
    """n = 5, k = 2, four generations.

    An aggregation is right with .85 if its subset holds a right one, else with .05; at first .3.

    Given j right of n, new ones are right independently with h = .05 + .8 (1 - C(n - j, k) / C(n,
    k)): a Markov chain over j. The last generation's vote is right when j >= 3. 300 runs: standard
    deviation below .0289; five of those, P(false alarm) < 1e-6.
    """
    n, k = 5, 2
    law = [binomial(n, j, 0.3) for j in range(n + 1)]
    for _ in range(3):
        h = [0.05 + 0.8 * (1 - math.comb(n - j, k) / math.comb(n, k)) for j in range(n + 1)]
        law = [sum(law[j] * binomial(n, i, h[j]) for j in range(n + 1)) for i in range(n + 1)]
    final, _ = accuracy(
        Rsa(n=n, k=k, steps=4),
        lambda before, _: 0.3 if not before else 0.85 if "R" in before else 0.05,
        300,
    )
    assert final == pytest.approx(sum(law[3:]), abs=0.145)
    assert final > sum(binomial(n, j, 0.3) for j in range(3, n + 1)) + 0.3, (
        "far above the vote over the first generation"
    )


def test_failed_candidates_are_in_no_subset() -> None:
    """One of four lives: all that follows is made of it alone; none: it ends."""
    session = explore(
        Rsa(n=4, k=2, steps=2), lambda r: trace(0, finish=Finish.FAILED) if r.ordinal < 3 else "A"
    )
    assert {t.subjects for t in session.traces.values() if t.ordinal >= 4} == {(3,)}
    assert len(explore(Rsa(n=4, k=2), lambda r: trace(0, finish=Finish.FAILED)).traces) == 4


# --- cascade


def test_agreement_is_the_leading_share_of_all_traces() -> None:
    """Those that state nothing count against it: AA of AA-B is a half."""
    assert agreement(pool("A A - B")) == 0.5
    assert agreement(pool("- !")) == agreement([]) == 0.0


@pytest.mark.parametrize(("answers", "models"), [("AAAB", ["small"]), ("AABB", ["small", "large"])])
def test_the_large_model_is_asked_only_where_the_small_one_disagrees(
    answers: str, models: list[str]
) -> None:
    """At .75: three of four stand, two of four do not."""
    session = explore(
        Cascade(("small", "large"), n=4),
        lambda r: answers[r.ordinal] if r.ordinal < 4 else "C",
        Plan(models=TWO),
    )
    assert list(dict.fromkeys(t.model for t in session.traces.values())) == models
    assert led(session, Final()) == ("A" if len(models) == 1 else "C")


def test_a_cascade_is_right_as_often_as_its_closed_form_says() -> None:
    """n = 3, unanimous: small right with p = .6, large with .9 and its vote of 3 with .972.

    P^3 + (1 - p^3 - q^3) .972 = .9158.

    400 runs: standard deviation .0139; five of those, P(false alarm) < 1e-6. The small model's vote
    alone is right with .648, and the vote over all traces of both models is not the cascade's
    answer either.
    """
    p, q = 0.6, 0.4
    large = sum(binomial(3, k, 0.9) for k in (2, 3))
    exact = p**3 + (1 - p**3 - q**3) * large
    final, _ = accuracy(
        Cascade(("small", "large"), n=3, agreement=1.0),
        lambda _, model: {"small": p, "large": 0.9}[model],
        400,
        Plan(models=TWO),
    )
    assert final == pytest.approx(exact, abs=0.07)
    assert exact > 0.648 + 0.14


# --- budgets and options


@pytest.mark.parametrize(
    "strategy", [Revise(chains=2, revisions=9), Rsa(n=4, k=2), Cascade(("small", "large"), n=8)]
)
def test_a_budget_ends_it_after_the_granted(strategy: Strategy) -> None:
    """What was granted is waited for, the result names the budget, and there is an answer."""
    session = explore(
        strategy, lambda r: "AB"[r.ordinal % 2], Plan(models=TWO, budget=Budget(traces=7)), seed=2
    )
    assert (len(session.traces), session.stopped_by, session.error) == (7, "traces", "")
    assert led(session, Final()) is not None
