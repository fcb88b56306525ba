"""Parallel-Probe: a stable majority ends it, deviants are dropped, the last answers vote."""

from __future__ import annotations

from orchestrator.core.outcome import conclude
from orchestrator.core.plan import Plan
from orchestrator.core.types import Answer, Problem, Purpose
from orchestrator.recordings import RecordedProblem, RecordedTrace
from orchestrator.replay import UNLIMITED, Explored, Tape, explore
from strategies.parallel_probe import ParallelProbe
from strategies.selectors import Majority


def play(strategy: ParallelProbe, *rows: tuple[int, str, str]) -> tuple[Tape, Explored, str]:
    """Attempts of (tokens, final answer, answers of the probes after every 500 tokens)."""
    traces = []
    for n_tokens, final, probes in rows:
        seen: dict[int, Answer | None] = {500 * (i + 1): Answer(key, key) for i, key in enumerate(probes)}
        traces.append(RecordedTrace(n_tokens, Answer(final, final), seen))
    problem = RecordedProblem(Problem("p", "?"), tuple(traces), None)
    tape = Tape(problem, range(len(rows)))
    explored = explore(tape, strategy, Plan(sampling=UNLIMITED))
    assert explored.session.error == ""
    answer = conclude(problem.problem, list(explored.session.traces.values()), Majority()).answer
    assert answer is not None
    return tape, explored, answer.key


def test_a_majority_that_stays_the_same_ends_it() -> None:
    """The first leader is that of the second interval; three repetitions later, after 5 x 500 tokens, it is called stable."""
    row = (9000, "B", "A" * 17)
    tape, explored, answer = play(ParallelProbe(n=3, stable=3, warm_up=99), row, row, row)
    assert answer == "A"
    assert explored.session.output_tokens == 3 * 5 * 500
    assert explored.depth_tokens == 2500
    assert max(s.last for s in tape.stretches.values()) == 2500


def test_a_deviant_is_dropped_and_votes_no_more() -> None:
    """From the second interval on (warm_up 0) the B has differed twice by the third: it is dropped with 1500 tokens."""
    agreeing, deviant = (3000, "A", "A" * 5), (9000, "B", "B" * 17)
    tape, _, answer = play(ParallelProbe(n=3, stable=99, warm_up=0, patience=2), agreeing, agreeing, deviant)
    assert answer == "A"
    reached = {index: max(s.last for s in tape.stretches.values() if s.index == index) for index in range(3)}
    assert reached == {0: 3000, 1: 3000, 2: 1500}


def test_attempts_that_ended_vote_beside_the_last_probes() -> None:
    """Two ended with B; one still runs and says A when the majority is called stable."""
    _, explored, answer = play(ParallelProbe(n=3, stable=4, warm_up=99), (600, "B", "B"), (700, "B", "B"), (9000, "A", "A" * 17))
    assert answer == "B"
    last = [t for t in explored.session.traces.values() if t.purpose is Purpose.AGGREGATE]
    assert [t.answer.key for t in last if t.answer] == ["A"]
