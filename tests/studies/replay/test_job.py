"""A job of recorded problems that share tokens: who gets them, and that they suffice."""

from __future__ import annotations

from orchestrator.core.values import Answer, PluginSpec, Problem
from orchestrator.studies.replay.experiment import Conditions, ReplaySetting, play_all
from orchestrator.studies.replay.recording import RecordedProblem, RecordedTrace, Recording

N = 32


def problem(name: str, keys: str) -> RecordedProblem:
    traces = tuple(RecordedTrace(100, Answer(key, key)) for key in keys)
    return RecordedProblem(Problem(name, name), traces, frozenset({"A"}))


RECORDING = Recording(
    "mixed",
    (problem("easy", "A" * N), problem("plain", "A" * N), problem("open", ("AAB" * N)[:N])),
)
SETTING = ReplaySetting(PluginSpec("consistency", {"n": N}))


def test_the_undecided_question_gets_the_tokens() -> None:
    """Two questions are unanimous; of 24 attempts the third gets more than its equal share, 8.

    No more is spent than the job has, and all have an answer.
    """
    conditions = Conditions(5, job_tokens=2400, window=2)
    [row] = play_all([RECORDING], [SETTING], conditions, 1)
    tokens = {name: spent for name, (_, spent) in row.units.items()}
    assert 2300 <= sum(tokens.values()) <= 2400
    assert tokens["open"] > 1.5 * max(tokens["easy"], tokens["plain"])
    assert min(tokens.values()) >= 100


def test_with_tokens_enough_a_job_is_its_problems_one_by_one() -> None:
    """A budget that nothing reaches changes no answer and no cost, whatever the strategy."""
    settings = [SETTING, ReplaySetting(PluginSpec("adaptive", {"n": 16}))]
    alone = play_all([RECORDING], settings, Conditions(3), 1)
    shared = play_all([RECORDING], settings, Conditions(3, job_tokens=10**9, window=10**4), 1)
    assert [row.units for row in alone] == [row.units for row in shared]
