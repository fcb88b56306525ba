"""Parallel-Probe: a stable majority ends it, deviants are dropped, the last answers vote."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.session import Session, Start
from orchestrator.core.values import Answer, Finish, Purpose, Request, Status, Trace
from orchestrator.core.votes import conclude
from orchestrator.studies.replay.recording import RecordedProblem, RecordedTrace
from orchestrator.studies.replay.simulator import UNLIMITED, SimulatedRun, Tape, explore
from orchestrator.testing import PROBLEM, trace
from strategies.pruning.parallel_probe import ParallelProbe
from strategies.selectors.majority import Majority


def play(strategy: ParallelProbe, *rows: tuple[int, str, str]) -> tuple[Tape, SimulatedRun, str]:
    tape = tape_of(*rows)
    explored = explore(tape, strategy, Plan(sampling=UNLIMITED))
    assert explored.session.error == ""
    answer = conclude(
        PROBLEM,
        list(explored.session.traces.values()),
        Majority(),
        dropped=explored.session.dropped,
    ).answer
    assert answer is not None
    return tape, explored, answer.key


def tape_of(*rows: tuple[int, str, str]) -> Tape:
    """Attempts of (tokens, final answer, answers of the probes after every 500 tokens)."""
    traces = []
    for n_tokens, final, probes in rows:
        seen: dict[int, Answer | None] = {
            500 * (i + 1): Answer(key, key) for i, key in enumerate(probes)
        }
        traces.append(RecordedTrace(n_tokens, Answer(final, final), seen))
    return Tape(RecordedProblem(PROBLEM, tuple(traces), None), range(len(rows)))


def test_a_majority_that_stays_the_same_ends_it() -> None:
    """The first leader is that of the second interval.

    Three repetitions later, after 5 x 500 tokens, it is called stable.
    """
    row = (9000, "B", "A" * 17)
    tape, explored, answer = play(ParallelProbe(n=3, stable=3, warm_up=99), row, row, row)
    assert answer == "A"
    assert explored.session.output_tokens == 3 * 5 * 500
    assert explored.path_tokens == 2500
    assert max(s.last for s in tape.stretches.values()) == 2500


def test_a_deviant_is_dropped_and_votes_no_more() -> None:
    """From the second interval on (warm_up 0) the B has differed twice by the third.

    It is dropped with 1500 tokens.
    """
    agreeing, deviant = (3000, "A", "A" * 5), (9000, "B", "B" * 17)
    tape, _, answer = play(
        ParallelProbe(n=3, stable=99, warm_up=0, patience=2), agreeing, agreeing, deviant
    )
    assert answer == "A"
    reached = {
        index: max(s.last for s in tape.stretches.values() if s.index == index)
        for index in range(3)
    }
    assert reached == {0: 3000, 1: 3000, 2: 1500}


def test_an_answer_stated_by_a_dropped_attempt_is_no_vote() -> None:
    """As above, but the deviant states B in each stretch.

    All its stretches are dropped and charged to pruning.
    """

    def world(request: Request) -> Trace:
        word = "B" if root(request) == 2 else "A"
        probe = request.purpose is not Purpose.SOLVE
        return trace(
            request.ordinal,
            word,
            tokens=1 if probe else 5,
            finish=Finish.STOP if probe else Finish.RULE,
        )

    def root(request: Request) -> int:
        return request.ordinal if request.parent is None else root(requests[request.parent])

    it = Session(PROBLEM, ParallelProbe(n=3, stable=2, warm_up=0, patience=2, interval=5), Plan())
    requests: dict[int, Request] = {}
    effects = it.start()
    while effects or it.running:
        requests.update({e.request.ordinal: e.request for e in effects if isinstance(e, Start)})
        request = it.running[min(it.running)]
        effects = it.receive(
            replace(world(request), parent=request.parent, purpose=request.purpose)
        )
    deviant = {o for o, r in requests.items() if r.purpose is Purpose.SOLVE and root(r) == 2}
    assert len(deviant) == 3
    assert it.dropped == dict.fromkeys(sorted(deviant))
    result = conclude(PROBLEM, list(it.traces.values()), Majority(), dropped=it.dropped)
    assert [c.answer.key for c in result.clusters] == ["A"]
    assert result.usage[Purpose.PRUNED].output_tokens == 15


def test_a_budget_in_traces_leaves_no_vote_to_what_still_runs() -> None:
    """Three attempts and their probes are six traces.

    Then nothing can be probed, and none has stated an answer.
    """
    row = (9000, "A", "A" * 17)
    tape = tape_of(row, row, row)
    session = explore(
        tape, ParallelProbe(n=3, stable=3), Plan(sampling=UNLIMITED, budget=Budget(traces=6))
    ).session
    assert (session.error, session.stopped_by, len(session.traces)) == ("", "traces", 6)
    assert (
        conclude(session.problem, list(session.traces.values()), Majority()).status
        is Status.ABSTAINED
    )


def test_attempts_that_ended_vote_beside_the_last_probes() -> None:
    """Two ended with B; one still runs and says A when the majority is called stable."""
    _, explored, answer = play(
        ParallelProbe(n=3, stable=4, warm_up=99),
        (600, "B", "B"),
        (700, "B", "B"),
        (9000, "A", "A" * 17),
    )
    assert answer == "B"
    last = [t for t in explored.session.traces.values() if t.purpose is Purpose.AGGREGATE]
    assert [t.answer.key for t in last if t.answer] == ["A"]
