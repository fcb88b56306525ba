"""short-m@k: the first m that finish end it."""

from __future__ import annotations

from orchestrator.core.plan import Plan
from orchestrator.core.session import Abort, Session
from orchestrator.core.values import Finish, Request
from orchestrator.testing import PROBLEM, explore, trace
from strategies.sampling.short_m import ShortM


def test_the_first_m_to_finish_end_it_and_the_rest_is_cancelled() -> None:
    """Arrival order is the point: ordinals 6, 1, 4 finish first, the other five are aborted."""
    it = Session(PROBLEM, ShortM(m=3, k=8), Plan())
    assert len(it.start()) == 8
    assert it.receive(trace(6, "A")) == []
    assert it.receive(trace(1, "B")) == []
    aborted = [e.request.ordinal for e in it.receive(trace(4, "A")) if isinstance(e, Abort)]
    assert aborted == [0, 2, 3, 5, 7]
    assert not it.exploring


def test_a_truncated_trace_counts_only_with_an_answer_and_a_failed_one_never() -> None:
    """What did not finish its thinking is not short: it is cut."""
    it = Session(PROBLEM, ShortM(m=2, k=5), Plan())
    it.start()
    for ordinal, (answer, finish) in enumerate(
        [(None, Finish.LENGTH), (None, Finish.FAILED), ("A", Finish.LENGTH)]
    ):
        it.receive(trace(ordinal, answer, finish=finish))
    assert it.exploring
    it.receive(trace(3, None, finish=Finish.STOP))
    assert not it.exploring


def test_with_fewer_than_m_finishers_it_waits_for_all() -> None:
    """Nothing more can come: it ends with what it has."""
    it = explore(ShortM(m=3, k=4), lambda r: trace(r.ordinal, finish=Finish.LENGTH), seed=1)
    assert len(it.traces) == 4
    assert it.error == ""


def test_m_equal_to_k_is_self_consistency() -> None:
    """The end of the scale is the baseline."""

    def answer(request: Request) -> str:
        return "AB"[request.ordinal % 2]

    it = explore(ShortM(m=6, k=6), answer, seed=2)
    assert all(t.finish is Finish.STOP for t in it.traces.values())
    assert len(it.traces) == ShortM(m=6, k=6).n_planned == 6
