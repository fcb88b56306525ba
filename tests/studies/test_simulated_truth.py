"""Simulated truth: attempts err at known rates, and every method is right as often as computed.

Computed by arithmetic or by an independent simulation.

And none is quietly a majority vote: each is shown where a vote over as many attempts comes out
differently. A method has a row in `ROWS`, or `ELSEWHERE` names the test that shows the same of it;
a new strategy or selector with neither fails.

The world of a row: an attempt states R, which is right, with probability `p`, else W. A mark goes
with the answer: an attempt is *marked* (confident, well scored, short, deep) with `MARKED_RIGHT` if
it is right and `MARKED_WRONG` if it is wrong. That is all a method may use.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import pytest
from scipy.special import betainc

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.protocols import Pair, Scores, Selector, Strategy
from orchestrator.core.session import Session
from orchestrator.core.values import (
    ConfidenceFloor,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Trace,
    Verdict,
)
from orchestrator.core.votes import conclude
from orchestrator.engines.fake.engine import problem_number
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.testing import PROBLEM, explore, pool, trace
from strategies.composition.auto import Auto
from strategies.composition.staged import Staged
from strategies.pruning.deepconf import DeepConf
from strategies.pruning.deepprune import DeepPrune
from strategies.pruning.discounted import Discounted
from strategies.pruning.dynasor import Dynasor
from strategies.pruning.parallel_probe import ParallelProbe
from strategies.pruning.sounding import Sounding
from strategies.sampling.adaptive import Adaptive
from strategies.sampling.consistency import Consistency
from strategies.sampling.ensemble import Ensemble
from strategies.sampling.short_m import ShortM
from strategies.selectors.by_score import BestWeighted, Filtered, Weighted
from strategies.selectors.depth_weighted import DepthWeighted
from strategies.selectors.majority import Majority

MARKED_RIGHT, MARKED_WRONG = 0.8, 0.2
N_SIMULATED = 8_000  # runs of an independent simulation, where there is no closed form


@dataclass(frozen=True, slots=True)
class Row:
    """A method: `run` plays one problem and returns what it answers, `expected` is how often that
    is R.

    `plain` is how often a majority vote over as many attempts is right; `n_runs` problems are
    played.
    """

    run: Callable[[int], str | None]
    expected: Callable[[], float]
    plain: Callable[[], float]
    n_runs: int = 400
    simulated: bool = False  # `expected` comes from N_SIMULATED runs


def answered(session: Session, selector: Selector) -> str | None:
    """Return the answer of a finished exploration."""
    answer = conclude(
        PROBLEM, list(session.traces.values()), selector, dropped=session.dropped
    ).answer
    return answer.key if answer else None


def attempt(rng: random.Random, p: float) -> tuple[bool, bool]:
    """Draw whether an attempt is right, and whether it is marked."""
    right = rng.random() < p
    return right, rng.random() < (MARKED_RIGHT if right else MARKED_WRONG)


def attempts(seed: int, n: int, p: float) -> list[tuple[bool, bool]]:
    rng = random.Random(seed)
    return [attempt(rng, p) for _ in range(n)]


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def vote(n: int, p: float) -> float:
    """Return how often a majority vote of `n` attempts, an odd number, is right."""
    return sum(binomial(n, k, p) for k in range(n // 2 + 1, n + 1))


def simulated(once: Callable[[random.Random], bool]) -> float:
    rng = random.Random(0)
    return sum(once(rng) for _ in range(N_SIMULATED)) / N_SIMULATED


# --- selectors: votes that weigh


def weighed(n: int, p: float, heavy: float, light: float, n_needed: int = 0) -> float:
    """Return how often R leads by weight, `heavy` for marked attempts and `light` for others.

    Equal weights go to the larger count.

    With at least `n_needed` marked attempts (0: never) the others do not vote. Sums over how many
    are right, and marked of either kind.
    """
    total = 0.0
    for k in range(n + 1):
        for i in range(k + 1):
            for j in range(n - k + 1):
                n_right, n_wrong, rest = (i, j, 0.0) if 0 < n_needed <= i + j else (k, n - k, light)
                lead = heavy * (i - j) + rest * ((k - i) - (n - k - j))
                if abs(lead) < 1e-9:
                    lead = n_right - n_wrong
                # in the end the lower ordinal leads, and either may have it
                share = 0.5 if lead == 0 else float(lead > 0)
                total += (
                    binomial(n, k, p)
                    * binomial(k, i, MARKED_RIGHT)
                    * binomial(n - k, j, MARKED_WRONG)
                    * share
                )
    return total


def voted(
    selector: Selector, n: int, p: float, make: Callable[[str, Sequence[bool]], list[Trace]]
) -> Callable[[int], str | None]:
    """Return a row's `run` for a selector.

    A pool of `n` attempts, made of their answers and their marks.
    """

    def run(seed: int) -> str | None:
        drawn = attempts(seed, n, p)
        traces = make(
            " ".join("R" if right else "W" for right, _ in drawn), [mark for _, mark in drawn]
        )
        return selector(traces)[0].answer.key

    return run


def confident(words: str, marks: Sequence[bool]) -> list[Trace]:
    return pool(words, metrics={"mean_confidence": [4.0 if mark else 1.0 for mark in marks]})


def scored(words: str, marks: Sequence[bool]) -> list[Trace]:
    return pool(words, verdicts={"v": [0.9 if mark else 0.3 for mark in marks]})


def short(words: str, marks: Sequence[bool]) -> list[Trace]:
    return pool(words, tokens=[100 if mark else 900 for mark in marks])


def deep(words: str, marks: Sequence[bool]) -> list[Trace]:
    return [replace(t, depth=8 if mark else 1) for t, mark in zip(pool(words), marks, strict=True)]


# --- strategies: what is requested, what continues, when it ends


def short_m(seed: int) -> str | None:
    """Three of eight, in order of their ends.

    A right attempt ends four times as soon: exponential times of rates 4 and 1.
    """
    rng = random.Random(seed)
    ends = sorted(
        (rng.expovariate(4.0 if right else 1.0), i, "R" if right else "W")
        for i, (right, _) in enumerate(attempts(seed, 8, 0.3))
    )
    session = Session(PROBLEM, ShortM(m=3, k=8), Plan())
    session.start()
    for _, ordinal, answer in ends:
        session.receive(
            trace(
                ordinal,
                answer if session.exploring else None,
                finish=Finish.STOP if session.exploring else Finish.CANCELLED,
            )
        )
    return answered(session, Majority())


def first_of(n_right: int, n_wrong: int, m: int, ahead: int = 0) -> float:
    """Return how often more right than wrong ones are among the next `m` to end.

    The next is a right one with 4r / (4r + w).
    """
    if m == 0:
        return float(ahead > 0)
    q = 4 * n_right / (4 * n_right + n_wrong)
    right = first_of(n_right - 1, n_wrong, m - 1, ahead + 1) if n_right else 0.0
    wrong = first_of(n_right, n_wrong - 1, m - 1, ahead - 1) if n_wrong else 0.0
    return q * right + (1 - q) * wrong


ONE_BY_ONE = Adaptive(n=21, confidence=0.8, wave=1, growth=1)


def adaptive(strategy: Strategy, seed: int) -> str | None:
    """One at a time, until the leader leads with probability .8."""
    drawn = attempts(seed, 21, 0.6)
    return answered(explore(strategy, lambda r: "R" if drawn[r.ordinal][0] else "W"), Majority())


@cache
def stopped_walk(n: int, p: float, confidence: float, n_right: int = 0, n_wrong: int = 0) -> float:
    """Return how often R leads when it ends.

    A walk over both counts, ended where the Beta tail says so, or at `n` (odd).
    """
    ahead = max(n_right, n_wrong), min(n_right, n_wrong)
    if n_right + n_wrong == n or betainc(ahead[1] + 1, ahead[0] + 1, 0.5) >= confidence:
        return float(n_right > n_wrong)
    onwards = (
        stopped_walk(n, p, confidence, n_right + 1, n_wrong),
        stopped_walk(n, p, confidence, n_right, n_wrong + 1),
    )
    return p * onwards[0] + (1 - p) * onwards[1]


def sounding(seed: int) -> str | None:
    """One at a time, marked attempts of 100 tokens and others of 900, until the discounted vote is
    decided at the risk.
    """
    drawn = attempts(seed, 15, 0.4)

    def world(request: Request) -> Trace:
        right, mark = drawn[request.ordinal]
        return trace(0, "R" if right else "W", tokens=100 if mark else 900)

    rule = Sounding(risk=0.1, n=15, width=1, interval=10_000, patience=0, longest_tokens=0)
    return answered(explore(rule, world), Discounted(rule.slope))


def sounded(rng: random.Random) -> bool:
    """`sounding` written down straight.

    Weights (shortest / length)^.5, risk .1 (paid / 10)^.5, paid in attempts of mean length.
    """
    seen: list[tuple[bool, int]] = []
    while True:
        right, mark = attempt(rng, 0.4)
        seen.append((right, 100 if mark else 900))
        shortest = min(length for _, length in seen)
        sums = {
            side: sum((shortest / length) ** 0.5 for right, length in seen if right is side)
            for side in (True, False)
        }
        leader = max((True, False), key=lambda side: (sums[side], side is seen[0][0]))
        upset = (
            betainc(sums[leader] + 1, sums[not leader] + 1, 0.5)
            * (sums[leader] / sum(sums.values())) ** 0.25
        )
        if len(seen) == 15 or (len(seen) >= 2 and upset < 0.1 * (len(seen) / 10) ** 0.5):
            return leader


DEEPCONF = DeepConf(n=12, n_init=4, keep=0.5, window_tokens=8, consensus=0.9, wave=1)


def deepconf(seed: int) -> str | None:
    """Marked attempts have confidence 4, others 1.

    Four of warm-up, then one at a time up to twelve.
    """
    drawn = attempts(seed, 12, 0.4)

    def world(request: Request) -> Trace:
        right, mark = drawn[request.ordinal]
        confidence = 4.0 if mark else 1.0
        cut = any(
            isinstance(rule, ConfidenceFloor) and confidence < rule.floor for rule in request.rules
        )
        return trace(
            0,
            None if cut else "R" if right else "W",
            finish=Finish.RULE if cut else Finish.STOP,
            metrics={DEEPCONF.by: confidence},
        )

    return answered(explore(DEEPCONF, world), Weighted(DEEPCONF.by))


def deepconf_straight(rng: random.Random) -> bool:
    """The floor is the median of the warm-up; who is below it has no vote.

    It ends when the leader has .9 of the weight.
    """
    warm = [attempt(rng, 0.4) for _ in range(4)]
    confidences = sorted(4.0 if mark else 1.0 for _, mark in warm)
    floor = (confidences[1] + confidences[2]) / 2
    votes = [
        (right, 4.0 if mark else 1.0) for right, mark in warm if (4.0 if mark else 1.0) >= floor
    ]
    for _ in range(8):
        total = sum(weight for _, weight in votes)
        if max(sum(w for r, w in votes if r is side) for side in (True, False)) >= 0.9 * total:
            break
        right, mark = attempt(rng, 0.4)
        if (4.0 if mark else 1.0) >= floor:
            votes.append((right, 4.0 if mark else 1.0))
    sums = [
        (
            sum(w for r, w in votes if r is side),
            sum(r is side for r, _ in votes),
            side is votes[0][0],
            side,
        )
        for side in (True, False)
    ]
    return max(sums)[3]


@dataclass(frozen=True, slots=True)
class Lumps:
    """A judge that takes any two wrong answers for the same, and errs otherwise in a tenth of the
    pairs.
    """

    seed: int

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        yield from ()
        return [
            float(
                same(a.text, b.text, random.Random(f"{self.seed} {sorted((a.ordinal, b.ordinal))}"))
            )
            for a, b in pairs
        ]


def same(a: str, b: str, rng: random.Random) -> bool:
    return (a == b or "R" not in (a, b)) != (rng.random() < 0.1)


WORDS = ("R", "V", "W", "X")  # right with .4, each wrong one with .2


def deepprune(seed: int) -> str | None:
    """Eight prefixes by that judge.

    One that says what it will come to is continued if it is of the largest cluster.
    """
    finals = random.Random(seed).choices(WORDS, (2, 1, 1, 1), k=8)

    def world(request: Request) -> Trace:
        if request.parent is None:
            return replace(trace(0, finish=Finish.RULE), text=finals[request.ordinal])
        return trace(0, finals[request.parent])

    return answered(explore(DeepPrune(n=8, similarity=Lumps(seed)), world), Majority())


def deepprune_straight(rng: random.Random) -> bool:
    """Greedy clustering, a newcomer joins the cluster it is most alike to if that is more than
    half; the largest cluster votes.
    """
    finals = rng.choices(WORDS, (2, 1, 1, 1), k=8)
    clusters: list[list[str]] = []
    for word in finals:
        alike = [
            sum(same(word, other, rng) for other in cluster) / len(cluster) for cluster in clusters
        ]
        best = max(alike, default=0.0)
        if best > 0.5:
            clusters[alike.index(best)].append(word)
        else:
            clusters.append([word])
    largest = max(clusters, key=len)
    voters = largest if len(largest) > 1 else finals
    return max(voters, key=lambda word: (voters.count(word), -voters.index(word))) == "R"


def vote_of_eight(rng: random.Random) -> bool:
    """The majority of eight such attempts; on a tie the answer of the earliest."""
    words = rng.choices(WORDS, (2, 1, 1, 1), k=8)
    return max(words, key=lambda word: (words.count(word), -words.index(word))) == "R"


PROBED = ParallelProbe(n=5, interval=10, stable=2, warm_up=0, patience=2, probe_tokens=1)
N_STRETCHES = 6


def late_thought(rng: random.Random, wait: float = 0.6) -> int:
    """Draw from which stretch on an attempt says R instead of W.

    It takes a while to see the mistake. 1 plus a binomial number.
    """
    return 1 + sum(rng.random() < wait for _ in range(N_STRETCHES))


def probed(strategy: Strategy, turns: Sequence[int]) -> str | None:
    """Play attempts of six stretches, each of which says R from its turn on, in probes and at its
    end.
    """
    at: dict[int, tuple[int, int]] = {}  # a stretch's attempt and its number

    def world(request: Request) -> Trace:
        attempt, n = (request.ordinal, 0) if request.parent is None else at[request.parent]
        is_probe = request.purpose is not Purpose.SOLVE
        at[request.ordinal] = attempt, n if is_probe else n + 1
        says = "R" if at[request.ordinal][1] >= turns[attempt] else "W"
        ended = is_probe or at[request.ordinal][1] == N_STRETCHES
        return trace(
            0,
            says if ended else None,
            tokens=1 if is_probe else 10,
            finish=Finish.STOP if ended else Finish.RULE,
        )

    return answered(explore(strategy, world), Majority())


def parallel_probe(seed: int) -> str | None:
    """Five attempts, probed after each stretch, until the leader stays or they end."""
    rng = random.Random(seed)
    return probed(PROBED, [late_thought(rng) for _ in range(5)])


def dynasor(seed: int) -> str | None:
    """Five attempts, each ended by two probes in a row that agree.

    Right where the second stretch says R already.
    """
    rng = random.Random(seed)
    return probed(Dynasor(n=5, stable=2, interval=10), [late_thought(rng, 0.3) for _ in range(5)])


def parallel_probe_straight(rng: random.Random) -> bool:
    """From the second stretch on who has differed twice in a row from the leader goes.

    A leader that stayed twice ends it.
    """
    turns = dict(enumerate(late_thought(rng) for _ in range(5)))
    contrary = dict.fromkeys(turns, 0)
    leader, n_stable = None, 0
    for n in range(1, N_STRETCHES + 1):
        says = {i: n >= turn for i, turn in turns.items()}
        if n == 1:
            continue
        first = leading(says)
        if len(says) > 1 and n < N_STRETCHES:
            contrary = {i: contrary[i] + 1 if says[i] != first else 0 for i in says}
            turns = {i: turn for i, turn in turns.items() if contrary[i] < 2}
        says = {i: n >= turn for i, turn in turns.items()}
        n_stable = n_stable + 1 if leading(says) == leader else 0
        leader = leading(says)
        if n_stable == 2:
            break
    return leading(says)


def leading(says: dict[int, bool]) -> bool:
    """Return what most say; on a tie what the earliest attempt says."""
    n_right = sum(says.values())
    return n_right * 2 > len(says) or (n_right * 2 == len(says) and says[min(says)])


def ensemble(seed: int) -> str | None:
    """Model a knows the even questions (.8) and not the odd ones (.35), b the other way round.

    Either is drawn half of the time.
    """
    know = {"a": 0.8, "b": 0.35} if seed % 2 == 0 else {"a": 0.35, "b": 0.8}

    def world(request: Request) -> str:
        return (
            "R"
            if random.Random(f"{seed} {request.ordinal}").random() < know[request.model]
            else "W"
        )

    plan = Plan(models={"a": Model("a"), "b": Model("b")}, seed=seed)
    return answered(explore(Ensemble(("a", "b"), n=21), world, plan), Majority())


def staged(seed: int) -> str | None:
    """Three attempts of a model right with .5.

    Where they are not of one mind, four of one that is right with .95 vote with them.
    """

    def world(request: Request) -> str:
        return (
            "R"
            if random.Random(f"{seed} {request.ordinal}").random()
            < {"a": 0.5, "b": 0.95}[request.model]
            else "W"
        )

    stages = (Consistency(3, model="a"), Consistency(4, model="b"))
    return answered(
        explore(
            Staged(stages, agreement=1.0), world, Plan(models={"a": Model("a"), "b": Model("b")})
        ),
        Majority(),
    )


def tail(n: int, least: int, p: float) -> float:
    return sum(binomial(n, k, p) for k in range(least, n + 1))


def ended_votes(rng: random.Random) -> bool:
    """The majority of five attempts that all run to their end."""
    return sum(late_thought(rng) <= N_STRETCHES for _ in range(5)) > 2


SELECTED = 2_000  # pools that a selector ranks
# The 66.7th percentile of nine confidences of two sizes is the larger one exactly when three or
# more have it.
ROWS: dict[str, Row] = {
    "weighted": Row(
        voted(Weighted(), 9, 0.35, confident),
        partial(weighed, 9, 0.35, 4.0, 1.0),
        partial(vote, 9, 0.35),
        SELECTED,
    ),
    "best-weighted": Row(
        voted(BestWeighted("verdict:v"), 9, 0.35, scored),
        partial(weighed, 9, 0.35, 0.9, 0.3),
        partial(vote, 9, 0.35),
        SELECTED,
    ),
    "filtered": Row(
        voted(Filtered("mean_confidence", keep=1 / 3), 9, 0.35, confident),
        partial(weighed, 9, 0.35, 4.0, 1.0, n_needed=3),
        partial(vote, 9, 0.35),
        SELECTED,
    ),
    "discounted": Row(
        voted(Discounted(0.5), 9, 0.35, short),
        partial(weighed, 9, 0.35, 3.0, 1.0),
        partial(vote, 9, 0.35),
        SELECTED,
    ),
    "depth-weighted": Row(
        voted(DepthWeighted((1, 8), (0.5, 2.0)), 9, 0.35, deep),
        partial(weighed, 9, 0.35, 2.0, 0.5),
        partial(vote, 9, 0.35),
        SELECTED,
    ),
    "depth-weighted without weights": Row(
        voted(DepthWeighted(), 9, 0.35, deep),
        partial(weighed, 9, 0.35, 1.0, 0.0),
        partial(vote, 9, 0.35),
        SELECTED,
    ),
    "short-m@k": Row(
        short_m,
        lambda: sum(binomial(8, k, 0.3) * first_of(k, 8 - k, 3) for k in range(9)),
        partial(vote, 7, 0.3),
    ),
    "adaptive": Row(
        partial(adaptive, ONE_BY_ONE),
        partial(stopped_walk, 21, 0.6, 0.8),
        partial(vote, 21, 0.6),
        n_runs=800,
    ),
    "auto": Row(
        partial(adaptive, Auto(ONE_BY_ONE)),
        partial(stopped_walk, 21, 0.6, 0.8),
        partial(vote, 21, 0.6),
        n_runs=800,
    ),
    "sounding": Row(sounding, partial(simulated, sounded), partial(vote, 15, 0.4), simulated=True),
    "deepconf": Row(
        deepconf, partial(simulated, deepconf_straight), partial(vote, 11, 0.4), simulated=True
    ),
    "deepprune": Row(
        deepprune,
        partial(simulated, deepprune_straight),
        partial(simulated, vote_of_eight),
        simulated=True,
    ),
    "parallel-probe": Row(
        parallel_probe,
        partial(simulated, parallel_probe_straight),
        partial(simulated, ended_votes),
        simulated=True,
    ),
    "dynasor": Row(
        dynasor,
        lambda: vote(5, binomial(6, 0, 0.3) + binomial(6, 1, 0.3)),
        lambda: vote(5, 1 - 0.3**6),
    ),
    "staged": Row(
        staged, lambda: 0.125 + 0.375 * (tail(4, 3, 0.95) + tail(4, 2, 0.95)), partial(vote, 7, 0.5)
    ),
    "ensemble": Row(
        ensemble, partial(vote, 21, 0.575), lambda: (vote(21, 0.8) + vote(21, 0.35)) / 2
    ),
}
# Methods of which a test beside their other tests shows the same.
ELSEWHERE: dict[str, dict[str, str]] = {  # file: test: methods
    "strategies/checking/test_scrutinize.py": {
        "test_accuracy_with_erring_judges_is_that_of_the_plain_algorithm": "scrutinize scrutinized",
    },
    "strategies/composition/test_composition.py": {
        "test_with_a_verifier_the_hard_arm_finds_what_the_vote_does_not": "compute-optimal",
        "test_refined_best_of_n_follows_its_selector_and_not_the_vote": "refine",
    },
    "strategies/revision/test_revision.py": {
        "test_a_cascade_is_right_as_often_as_its_closed_form_says": "cascade",
        "test_a_chain_is_right_as_often_as_its_two_state_chain_says": "final revise",
        "test_the_last_population_is_right_as_often_as_its_markov_chain_says": "rsa",
    },
    "strategies/sampling/test_deepen.py": {
        "test_calibrated_it_is_as_accurate_as_the_best_fixed_depth_for_half_the_cost": "deepen",
    },
    "strategies/search/test_ab_mcts.py": {
        "test_it_is_as_right_as_the_plain_search_and_no_majority_vote": "ab-mcts",
    },
    "strategies/search/test_ab_mcts_m.py": {
        "test_it_is_as_right_as_the_plain_search_and_no_majority_vote": "ab-mcts-m",
    },
    "strategies/search/test_mind_evolution.py": {
        "test_it_is_as_right_as_its_closed_form_and_no_majority_vote": "mind-evolution",
    },
    "strategies/search/test_mits.py": {
        "test_it_is_as_right_as_its_closed_form_and_no_majority_vote": "mits pmi",
    },
    "strategies/search/test_step_search.py": {
        "test_beam_with_a_perfect_verifier_is_right_as_often_as_its_markov_chain_says": "beam",
        "test_best_of_n_needs_no_strategy_of_its_own": "best",
        "test_dvts_with_a_perfect_verifier_is_right_as_often_as_its_closed_form_says": "dvts",
        "test_particles_with_an_erring_verifier_are_as_right_as_the_plain_algorithm": "particles",
    },
    "strategies/selectors/test_pessimistic.py": {
        "test_it_finds_what_is_right_though_rare_as_often_as_the_closed_form_says": "pessimistic",
    },
    "strategies/thinking/test_budget_forcing.py": {
        "test_more_thinking_mends_as_often_as_its_closed_form_says": "budget-forcing",
    },
    "strategies/thinking/test_concise_hint.py": {
        "test_where_hints_shorten_thinking_it_is_as_right_as_computed_by_hand": "concise-hint",
    },
    "strategies/thinking/test_early_answer.py": {
        "test_it_answers_as_rightly_and_as_soon_as_computed_by_hand": "early-answer",
    },
    "strategies/thinking/test_speculative.py": {
        "test_it_is_right_as_often_as_its_closed_form_says": "speculative-thinking",
    },
}
BASELINE = {"consistency", "majority"}  # the vote that the others are compared with


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_it_is_right_as_often_as_computed_and_a_majority_vote_is_not(name: str) -> None:
    """Within five standard deviations of the difference: P(false alarm) < 6e-7 a row.

    The plain vote is further away than that.
    """
    row = ROWS[name]
    expected = row.expected()
    tolerance = 5 * math.sqrt(
        expected * (1 - expected) * (1 / row.n_runs + row.simulated / N_SIMULATED)
    )
    got = sum(row.run(seed) == "R" for seed in range(row.n_runs)) / row.n_runs
    assert got == pytest.approx(expected, abs=tolerance)
    assert abs(got - row.plain()) > tolerance


def test_every_method_is_shown_to_be_right_as_often_as_computed() -> None:
    """A new strategy or selector needs a row, or a test of its own that is named above."""
    ours = {
        name
        for group in ("strategies", "selectors")
        for name in registry.names(group)
        if registry.distribution(group, name).startswith("leadline ")
    }
    elsewhere = {
        name
        for tests in ELSEWHERE.values()
        for methods in tests.values()
        for name in methods.split()
    }
    assert not ours - ROWS.keys() - elsewhere - BASELINE
    for file, tests in ELSEWHERE.items():
        text = (Path(__file__).parents[1] / file).read_text()
        for test in tests:
            assert f"def {test}(" in text, f"{file}::{test}"


# --- through a whole job


@registry.verifier("errs")
@dataclass(frozen=True, slots=True)
class Errs:
    """Gives .9 to what is right and .3 to what is wrong, and in a fifth of the traces, drawn by
    their ordinals, the other one.
    """

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [
            Verdict("errs", 0.9 if self._says_right(problem, trace) else 0.3) for trace in traces
        ]

    def _says_right(self, problem: Problem, trace: Trace) -> bool:
        right = trace.text.endswith(f" {problem_number(problem.id)}.")
        return right == (random.Random(f"{problem.id} {trace.ordinal}").random() < 0.8)


def test_a_whole_job_with_an_erring_verifier_is_as_right_as_computed() -> None:
    """Fake engine, annotation, journal and selector together.

    The vote of nine is weighted by a verifier that errs with .2.
    300 problems; five standard deviations are .144, P(false alarm) < 6e-7. The plain vote is right
    with .172.
    """
    problems = [Problem(f"q{i}", f"Question {i}?", "number") for i in range(300)]
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 9}),
        selector=PluginSpec("best-weighted", {"by": "verdict:errs"}),
        verifiers=(PluginSpec("errs"),),
    )
    results = orchestrator.run(
        problems, plan, Execution(engine=PluginSpec("fake", {"weights": (0.35, 0.65, 0.0)}))
    )
    got = (
        sum(r.answer is not None and r.answer.text == problem_number(r.problem_id) for r in results)
        / 300
    )
    assert got == pytest.approx(weighed(9, 0.35, 0.9, 0.3), abs=0.144)
    assert got - vote(9, 0.35) > 0.144
