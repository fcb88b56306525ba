"""Sounding: its limits, its drops, its vote."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.plan import Plan, Sampling
from orchestrator.core.session import Abort, Session, Start
from orchestrator.core.values import Answer, Finish, PluginSpec, Problem, Purpose
from orchestrator.core.votes import conclude
from orchestrator.jobs.sessions import load_explorer
from orchestrator.studies.replay.recording import RecordedProblem, RecordedTrace
from orchestrator.studies.replay.simulator import UNLIMITED, SimulatedRun, Tape, explore
from orchestrator.testing import pool, trace
from strategies.pruning.discounted import Discounted, length_weights
from strategies.pruning.sounding import Sounding, vote_weights
from strategies.pruning.upset import upset_probability
from strategies.sampling.adaptive import Adaptive, beta_confidence

PLAN = Plan(sampling=UNLIMITED)


def recorded(*rows: tuple[int, str, str]) -> RecordedProblem:
    """Attempts of (tokens, final answer, answers of the probes after every 500 tokens)."""
    traces = []
    for n_tokens, final, probes in rows:
        seen: dict[int, Answer | None] = {
            500 * (i + 1): Answer(key, key) for i, key in enumerate(probes)
        }
        traces.append(
            RecordedTrace(
                n_tokens, Answer(final, final), {n: a for n, a in seen.items() if n < n_tokens}
            )
        )
    return RecordedProblem(Problem("p", "?"), tuple(traces), frozenset({"A"}))


def play(strategy: object, problem: RecordedProblem) -> tuple[Tape, SimulatedRun]:
    tape = Tape(problem, range(len(problem.traces)))
    explored = explore(tape, strategy, PLAN)  # type: ignore[arg-type]  # a strategy
    assert explored.session.error == ""
    return tape, explored


@pytest.mark.parametrize("interval", [500, 10**9])
def test_without_slope_drops_and_width_it_is_adaptive_consistency(interval: int) -> None:
    """The same attempts, tokens and path on 60 random pools.

    Both stop when P[the runner-up is ahead] falls below 5 %.
    """
    rng = random.Random(0)
    bare = Sounding(
        risk=0.05,
        n=30,
        width=1,
        interval=interval,
        slope=0.0,
        share_power=0.0,
        risk_growth=0.0,
        at_least=1,
        patience=0,
        longest_tokens=0,
    )
    published = Adaptive(n=30, rule="beta", confidence=0.95, wave=1, growth=1.0)
    for _ in range(60):
        n_kinds = rng.randint(1, 4)
        problem = recorded(
            *[(rng.randint(1, 4000), rng.choice("ABCD"[:n_kinds]), "") for _ in range(30)]
        )
        (_, one), (_, other) = play(bare, problem), play(published, problem)
        assert one.session.output_tokens == other.session.output_tokens
        assert one.path_tokens == other.path_tokens
        answers = [
            [t.answer.key for t in e.session.traces.values() if t.answer] for e in (one, other)
        ]
        assert answers[0] == answers[1]


def test_a_budget_in_tokens_opens_only_what_it_can_pay_for() -> None:
    """Attempts of 1000 that disagree, width 1, budget 3000: a fourth would make it 4000."""
    problem = recorded(*[(1000, key, "") for key in "ABCDEFGH"])
    tape, explored = play(
        Sounding(risk=0.01, width=1, tokens=3000, n=8, risk_growth=0.0, patience=0), problem
    )
    assert explored.session.output_tokens == 3000
    assert len({s.index for s in tape.stretches.values()}) == 3


def test_an_attempt_whose_probes_contradict_the_leader_is_dropped() -> None:
    """A ends after 600 tokens.

    From the look at 1000 on, probes contradict it: after three of them, at 2000, the attempt is
    dropped.

    The look at 500 is before A has ended: nothing is probed then. The probe at 1000 is the first
    contradiction, 1500 and 2000 the next.
    """
    problem = recorded((600, "A", "A"), (9000, "B", "B" * 17))
    tape, explored = play(Sounding(n=2, width=2, patience=3, risk=0.001), problem)
    probes = [t for t in explored.session.traces.values() if t.purpose is Purpose.PROBE]
    assert len(probes) == 3
    assert explored.session.output_tokens == 600 + 2000
    assert max(s.last for s in tape.stretches.values()) == 2000


def test_agreement_starts_the_count_anew() -> None:
    """B, B, A, B, B at 1000 to 3000: never three contradictions in a row.

    The attempt runs to its end.
    """
    problem = recorded((600, "A", "A"), (3200, "B", "BBBABB"))
    _, explored = play(Sounding(n=2, width=2, patience=3, risk=0.001), problem)
    assert explored.session.output_tokens == 600 + 3200


def test_an_attempt_no_longer_than_the_shortest_voter_is_kept() -> None:
    """The first voter took 5000 tokens; a contradicting attempt of 3000 may be the better one."""
    problem = recorded((5000, "A", ""), (3000, "B", "B" * 5))
    _, explored = play(Sounding(n=2, width=1, patience=1, risk=0.001, longest_tokens=0), problem)
    assert explored.session.output_tokens == 8000


def test_a_long_attempt_is_dropped_only_when_another_has_an_answer() -> None:
    """Both pass the cap of 1000 together and continue.

    When the first ends at 1700, the second is dropped at its next look, at 2000.
    """
    problem = recorded((1700, "A", ""), (9000, "B", ""))
    _, explored = play(Sounding(n=2, width=2, patience=0, longest_tokens=1000, risk=0.001), problem)
    assert explored.session.output_tokens == 1700 + 2000


def test_a_long_attempt_is_kept_until_a_shorter_one_has_an_answer() -> None:
    """The first voter took 3000 tokens.

    Where all attempts are longer than the cap, being longer than the cap says nothing.
    """
    problem = recorded((3000, "A", ""), (2900, "B", ""), (9000, "C", ""))
    _, explored = play(Sounding(n=3, width=1, patience=0, longest_tokens=1000, risk=0.001), problem)
    assert explored.session.output_tokens == 3000 + 2900 + 3000, (
        "the third is dropped at its first look beyond 2900"
    )


def test_no_more_run_than_the_decision_could_need() -> None:
    """Unanimity of three decides at risk 0.1 (1/16 < 0.1, above).

    Three run, then, with one A, two, though the width allows eight.

    B against A brings more: A's lead of one must become so large that I(1/2) falls below 0.1.
    """
    it = Session(
        Problem("p", "?"),
        Sounding(risk=0.1, n=64, width=8, spare=0, risk_growth=0.0, share_power=0.0, patience=0),
        Plan(),
    )
    assert len(it.start()) == 3
    assert it.receive(trace(0, "A", tokens=100)) == []
    # A 1, B 1: after k more for A, P[X < 1/2] for X ~ Beta(k + 2, 2) is (k + 4) / 2^(k + 3): 1/4,
    # .156, .109 (7/64), then 8/128 = .0625
    effects = it.receive(trace(1, "B", tokens=100))
    assert len(it.running) == 1 + len(effects) == 4


@pytest.mark.parametrize(("spare", "n_running"), [(0, 3), (2, 5), (8, 8)])
def test_spare_attempts_run_beside_those_needed(spare: int, n_running: int) -> None:
    """As above: three could be needed; `width` bounds the rest."""
    it = Session(
        Problem("p", "?"), Sounding(risk=0.1, n=64, width=8, spare=spare, risk_growth=0.0), Plan()
    )
    assert len(it.start()) == n_running


def test_an_attempt_dropped_for_its_length_does_not_vote() -> None:
    """It states B in both its stretches and is dropped at its next look, at 10 tokens, since A has
    been answered: no vote, and pruned.
    """
    it = Session(
        Problem("p", "?"),
        Sounding(n=2, width=2, patience=0, interval=5, longest_tokens=10, risk=0.001),
        Plan(),
    )
    it.start()
    it.receive(trace(0, "A", tokens=3))
    it.receive(trace(1, "B", tokens=5, finish=Finish.RULE))
    it.receive(trace(2, "B", tokens=5, finish=Finish.RULE, parent=1))
    assert (it.done, it.dropped) == (True, {1: None, 2: None})
    result = conclude(it.problem, list(it.traces.values()), Discounted(), dropped=it.dropped)
    assert [c.answer.key for c in result.clusters] == ["A"]
    assert {account: usage.output_tokens for account, usage in result.usage.items()} == {
        "solve": 3,
        "pruned": 10,
    }


def test_an_attempt_dropped_for_its_probes_does_not_vote() -> None:
    """Its probe contradicts A, so the stretch that runs is stopped.

    It arrives with B stated, as did the one before.
    """
    it = Session(
        Problem("p", "?"), Sounding(n=2, width=2, patience=1, interval=5, risk=0.001), Plan()
    )
    it.start()
    it.receive(trace(0, "A", tokens=3))
    it.receive(trace(1, "B", tokens=5, finish=Finish.RULE))
    effects = it.receive(trace(3, "B", tokens=1, purpose=Purpose.PROBE, parent=1))
    assert effects == [Abort(it.running[2])]
    it.receive(trace(2, "B", tokens=4, finish=Finish.CANCELLED, parent=1))
    assert it.dropped == {1: None, 2: None}
    result = conclude(it.problem, list(it.traces.values()), Discounted(), dropped=it.dropped)
    assert [c.answer.key for c in result.clusters] == ["A"]
    assert result.usage[Purpose.PRUNED].output_tokens == 9


def test_nobody_is_interrupted_for_a_look_that_could_change_nothing() -> None:
    """Without probes and budget only the length cap calls for one.

    With either, every interval does.
    """

    def checkpoint(**options: int) -> int | None:
        return next(
            e.request
            for e in Session(Problem("p", "?"), Sounding(**options), PLAN).start()
            if isinstance(e, Start)
        ).checkpoint  # type: ignore[arg-type]

    assert checkpoint(patience=0, longest_tokens=0) is None
    assert checkpoint(patience=0, longest_tokens=2000) == 2000
    assert checkpoint(patience=0, longest_tokens=2000, tokens=9000) == 500
    assert checkpoint(longest_tokens=0) == 500
    assert checkpoint(longest_tokens=300) == 300


@pytest.mark.parametrize(
    ("allowed", "interval", "longest", "patience"),
    [
        (32_000, 500, 24_000, 24),
        (100_000, 1562, 75_000, 24),
        (4096, 128, 3072, 24),
        (96, 128, 72, 0),
    ],
)
def test_its_limits_follow_the_length_that_the_plan_allows(
    allowed: int, interval: int, longest: int, patience: int
) -> None:
    """24 looks of 128 tokens are 3072: attempts of 96 end before probes could drop one."""
    explorer = load_explorer(
        Plan(strategy=PluginSpec("sounding"), sampling=Sampling(max_new_tokens=allowed))
    )
    rule = explorer.strategy
    assert isinstance(rule, Sounding)
    assert (rule.interval, rule.longest_tokens, rule.patience) == (interval, longest, patience)
    given = {"interval": 7, "longest_tokens": 0}
    own = Plan(strategy=PluginSpec("sounding", given), sampling=Sampling(max_new_tokens=allowed))
    rule = load_explorer(own).strategy
    assert isinstance(rule, Sounding)
    assert (rule.interval, rule.longest_tokens) == (7, 0)


def test_where_no_plan_says_how_long_attempts_may_be_the_usual_limits_hold() -> None:
    """As in a replay, and inside another strategy: 99 looks of 500 are more than 32,000 tokens."""
    it = Session(Problem("p", "?"), Sounding(n=2, width=2, patience=99, risk=0.001), PLAN)
    assert [e.request.checkpoint for e in it.start() if isinstance(e, Start)] == [24_000] * 2
    it.receive(trace(0, "A", tokens=30_000))
    effects = it.receive(trace(1, None, tokens=24_000, finish=Finish.RULE))
    assert [e.request.purpose for e in effects if isinstance(e, Start)] == [Purpose.SOLVE]


def certified_session(**options: int) -> Session:
    return Session(Problem("p", "?"), Sounding(error=0.05, n=20, **options), PLAN)


def test_with_an_error_the_certificate_decides() -> None:
    """Nine votes for A (`test_certificate`), in the order of submission: the ninth arrives last."""
    it = certified_session(width=9)
    assert len(it.start()) == 9
    for ordinal in range(8):
        it.receive(trace(ordinal, "A", tokens=100))
    assert it.exploring
    it.receive(trace(9, "A", tokens=100))
    assert it.exploring, "the ninth that was submitted still runs"
    it.receive(trace(8, "A", tokens=100))
    assert not it.exploring
    assert set(it.reasons.values()) <= {
        "the vote was decided: its leader was certified with error = 0.05"
    }


def test_a_dropped_attempt_counts_against_the_certified_answer() -> None:
    """Two more votes are needed than without it; one without an answer counts for nothing."""

    def n_until_certified(last: Finish) -> int:
        it = certified_session(width=1, patience=0, longest_tokens=500)
        it.start()
        it.receive(trace(0, "A", tokens=100))
        it.receive(trace(1, None, tokens=500, finish=last))
        n = 2
        while it.exploring:
            it.receive(trace(n, "A", tokens=100))
            n += 1
        return n

    assert n_until_certified(Finish.STOP) == 10
    assert n_until_certified(Finish.RULE) == 13


def test_what_still_runs_when_the_vote_is_decided_does_not_vote() -> None:
    """Two A of two voters decide it.

    The third attempt has stated B in its first stretch and is stopped in its second.
    """
    it = Session(
        Problem("p", "?"),
        Sounding(n=3, width=3, patience=0, interval=5, at_least=2, risk=0.9),
        Plan(),
    )
    it.start()
    it.receive(trace(2, "B", tokens=5, finish=Finish.RULE))
    it.receive(trace(0, "A", tokens=5))
    effects = it.receive(trace(1, "A", tokens=5))
    assert effects == [Abort(it.running[3])]
    assert it.dropped == {2: None, 3: None}
    it.receive(trace(3, None, tokens=2, finish=Finish.CANCELLED, parent=2))
    result = conclude(it.problem, list(it.traces.values()), Discounted(), dropped=it.dropped)
    assert [c.answer.key for c in result.clusters] == ["A"]


def test_unanimity_stops_it_at_the_risk() -> None:
    """Equal lengths, no growth: after k votes for A the upset has probability 2^-(k+1).

    1/16 is the first below 0.1, so k = 3.
    """
    problem = recorded(*[(100, "A", "")] * 9)
    tape, _ = play(Sounding(n=9, width=1, risk=0.1, risk_growth=0.0), problem)
    assert len(tape.stretches) == 3


def test_the_risk_allowed_grows_with_what_was_paid() -> None:
    """Attempts that all differ: 1/2 k^-0.25 < 0.15 (k / 10)^0.5 holds from k = 24 on (0.226 <
    0.232; at 23: 0.228 > 0.227).
    """
    problem = recorded(*[(100, str(i), "") for i in range(100)])
    fixed, _ = play(Sounding(n=100, width=1, risk=0.15, risk_growth=0.0), problem)
    grown, _ = play(Sounding(n=100, width=1, risk=0.15), problem)
    assert (len(fixed.stretches), len(grown.stretches)) == (100, 24)


def test_a_failed_probe_says_nothing() -> None:
    """An engine that cannot probe must not look like an attempt that contradicts."""
    it = Session(
        Problem("p", "?"), Sounding(n=2, width=2, patience=1, interval=5, risk=0.001), Plan()
    )
    it.start()
    it.receive(trace(0, "A", tokens=3))
    started = [
        e.request
        for e in it.receive(trace(1, None, tokens=5, finish=Finish.RULE))
        if isinstance(e, Start)
    ]
    assert [r.purpose for r in started] == [Purpose.SOLVE, Purpose.PROBE]
    assert (
        it.receive(trace(started[1].ordinal, finish=Finish.FAILED, purpose=Purpose.PROBE, parent=1))
        == []
    )
    assert set(it.running) == {started[0].ordinal}


def test_shorter_attempts_weigh_more() -> None:
    """A took 100 tokens, B twice 900.

    Weights 1 against 1/3 + 1/3 at slope 0.5, and 1 against 2 at slope 0.
    """
    traces = pool("A B B", tokens=(100, 900, 900))
    first, second = Discounted()(traces)
    assert (first.answer.key, first.weight, second.weight) == ("A", 1.0, pytest.approx(2 / 3))
    assert Discounted(slope=0.0)(traces)[0].answer.key == "B"


def test_an_attempt_is_as_long_as_all_its_stretches() -> None:
    """500 tokens, then 400 more that state B, against 900 in one stretch that state A.

    Equal weights.
    """
    traces = [
        trace(0, None, tokens=500, finish=Finish.RULE),
        trace(1, "B", tokens=400, parent=0),
        trace(2, "A", tokens=900),
    ]
    assert [c.weight for c in Discounted()(traces)] == [1.0, 1.0]


@given(st.integers(0, 200), st.integers(0, 200))
def test_for_whole_counts_the_upset_is_a_binomial_tail(first: int, second: int) -> None:
    """`adaptive` computes it exactly for whole counts."""
    assert upset_probability(first, second) == pytest.approx(
        1 - beta_confidence(first, second), abs=1e-11
    )


@given(st.floats(0, 300), st.floats(0, 300))
def test_an_upset_either_way_is_certain(first: float, second: float) -> None:
    """I(a, b) at 1/2 and I(b, a) at 1/2 add up to one; it falls when the leader gains."""
    assert upset_probability(first, second) + upset_probability(second, first) == pytest.approx(
        1.0, abs=1e-10
    )
    assert upset_probability(first + 1, second) <= upset_probability(first, second) + 1e-12


def test_formulas_at_their_edges() -> None:
    """No votes; a tie goes to the key seen first; lengths of nothing."""
    assert vote_weights([], []) == ("", 0.0, 0.0, 0.0)
    assert vote_weights(["B", "A"], [1.0, 1.0]) == ("B", 1.0, 1.0, 2.0)
    assert length_weights([], 0.5) == []
    assert length_weights([400, 100], 0.5) == [0.5, 1.0]
    with pytest.raises(ValueError, match="must not be negative"):
        upset_probability(-1.0, 2.0)
