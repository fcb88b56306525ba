"""DeepConf online: which percentile, who is stopped, who votes, and when it ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.plan import Plan
from orchestrator.core.session import Session, Start
from orchestrator.core.values import ConfidenceFloor, Finish, PluginSpec, Purpose, Request, Trace
from orchestrator.core.votes import conclude, pruned, voters
from orchestrator.testing import PROBLEM, explore, trace
from strategies.pruning.deepconf import DeepConf, percentile
from strategies.selectors.by_score import Weighted

BY = "lowest_confidence@4"


def world(answers: Sequence[str], confidences: Sequence[float]) -> Callable[[Request], Trace]:
    """Trace i states answers[i] with its lowest group at confidences[i], or is stopped when that is
    below its floor.
    """

    def reply(request: Request) -> Trace:
        confidence = confidences[request.ordinal]
        cut = any(
            isinstance(rule, ConfidenceFloor) and confidence < rule.floor for rule in request.rules
        )
        finish = Finish.RULE if cut else Finish.STOP
        return trace(
            request.ordinal,
            None if cut else answers[request.ordinal],
            finish=finish,
            metrics={BY: confidence},
            tokens=5,
        )

    return reply


def floors(session: Session, reply: Callable[[Request], Trace], n_warm: int) -> set[float]:
    session.start()
    found: set[float] = set()
    for ordinal in range(n_warm):
        effects = session.receive(replace(reply(session.running[ordinal])))
        found |= {
            r.floor
            for e in effects
            if isinstance(e, Start)
            for r in e.request.rules
            if isinstance(r, ConfidenceFloor)
        }
    return found


@pytest.mark.parametrize(("keep", "floor"), [(0.1, 10.0), (0.9, 2.0), (0.5, 6.0)])
def test_low_is_the_90th_percentile_and_high_the_10th(keep: float, floor: float) -> None:
    """Eleven warm-up traces of confidence 1 to 11: the 90th percentile is 10, the 10th 2.

    The released code's name for these misleads.
    """
    reply = world("ABABABABABA", range(1, 12))
    assert floors(
        Session(PROBLEM, DeepConf(n=20, n_init=11, keep=keep, window_tokens=4), Plan()), reply, 11
    ) == {floor}


def test_stopped_and_weak_warm_up_traces_do_not_vote() -> None:
    """Warm-up 1, 2, 3 of which keep = .5 has 2 and 3 vote.

    Of the rest those below 2 are stopped, and none of their statements counts.
    """
    answers, confidences = "AABABBB", [1.0, 2.0, 3.0, 1.5, 2.5, 1.0, 2.0]
    session = explore(
        DeepConf(n=7, n_init=3, keep=0.5, window_tokens=4), world(answers, confidences)
    )
    pool = pruned(list(session.traces.values()), session.dropped)
    assert [t.ordinal for t in voters(pool)] == [1, 2, 4, 6]
    assert {t.ordinal for t in pool if t.account is Purpose.PRUNED} == {0, 3, 5}


def test_votes_are_weighted_and_not_overwritten_by_a_plain_one() -> None:
    """A has two votes of 2.0, B one of 5.0: by weight B wins.

    The strategy's consensus and the published selector use the same weights.
    """
    session = explore(
        DeepConf(n=3, n_init=3, keep=0.9, window_tokens=4), world("AAB", [2.1, 2.1, 5.0])
    )
    result = conclude(PROBLEM, list(session.traces.values()), Weighted(BY), dropped=session.dropped)
    assert result.answer is not None
    assert DeepConf(window_tokens=4).selector == PluginSpec("weighted", {"by": BY})
    assert (result.answer.text, [c.weight for c in result.clusters]) == ("B", [5.0, 4.2])


def test_it_ends_at_consensus_and_what_runs_then_is_stopped_without_a_vote() -> None:
    """Warm-up A(1) B(2) A(18), floor 1.8: beta = .9.

    One more A of 22: 40 / 42 = .952 reaches .95, and 3 of the wave of 4 are stopped.
    """
    strategy = DeepConf(n=10, n_init=3, keep=0.6, window_tokens=4, wave=4)
    session = explore(strategy, world("ABAAAAAAAA", [1.0, 2.0, 18.0, *[22.0] * 7]))
    assert [t.finish for t in session.traces.values()].count(Finish.CANCELLED) == 3
    assert sorted(session.dropped) == [0, 4, 5, 6]


def test_agreement_in_the_warm_up_ends_it_there() -> None:
    session = explore(
        DeepConf(n=8, n_init=4, keep=0.9, window_tokens=4), world("AAAAAAAA", [3.0] * 8)
    )
    assert len(session.traces) == 4


def test_with_a_wave_of_one_it_is_the_papers_sequential_algorithm() -> None:
    """After the warm-up never two at once, up to n in all."""
    session = Session(PROBLEM, DeepConf(n=6, n_init=2, keep=0.5, window_tokens=4, wave=1), Plan())
    reply = world("ABABAB", [3.0] * 6)
    session.start()
    session.receive(reply(session.running[0]))
    session.receive(reply(session.running[1]))
    for ordinal in range(2, 6):
        assert list(session.running) == [ordinal]
        session.receive(reply(session.running[ordinal]))
    assert session.done


def test_without_a_whole_warm_up_trace_there_is_no_floor() -> None:
    """All failed: nothing to set a threshold by, and the rest is sampled plainly."""
    session = explore(
        DeepConf(n=4, n_init=2, window_tokens=4, wave=2),
        lambda r: trace(
            r.ordinal,
            "A" if r.ordinal > 1 else None,
            finish=Finish.STOP if r.ordinal > 1 else Finish.FAILED,
            metrics={BY: 1.0},
        ),
    )
    assert [t.answer.text for t in voters(session.traces.values()) if t.answer] == ["A"]


@given(
    st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=40),
    st.sampled_from([10.0, 50.0, 90.0, 100 * (1 - 0.9)]),
)
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, share)), abs=1e-6)


def test_any_order_of_arrival_gives_a_vote_of_those_above_the_floor() -> None:
    rng = random.Random(0)
    confidences = [rng.uniform(1, 9) for _ in range(16)]
    answers = [rng.choice("AB") for _ in range(16)]
    for seed in range(6):
        session = explore(
            DeepConf(n=16, n_init=6, keep=0.5, window_tokens=4, consensus=1.0),
            world(answers, confidences),
            seed=seed,
        )
        floor = percentile(confidences[:6], 50)
        pool = pruned(list(session.traces.values()), session.dropped)
        assert all(confidences[t.ordinal] >= floor for t in voters(pool))
