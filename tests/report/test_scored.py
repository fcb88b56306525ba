"""Outcomes and states, from journals of all kinds of traces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Finish, PluginSpec, Problem, Purpose, Trace, Usage
from orchestrator.core.votes import AttemptState, conclude
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived, Concluded, Opened, digest
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.report.scored import Outcome, ScoredProblem, read_scored
from orchestrator.report.tables.training import sft_rows

PROBLEM = Problem("p", "What is 6 * 7?", "number")
PLAN = Plan(domain="number")


def trace(ordinal: int, answer: str | None = None, **more: object) -> Trace:
    text = f"part {ordinal}; " if answer is None else f"The answer is {answer}."
    own = None if answer is None else Answer(answer, f"={answer}")
    return Trace(ordinal, text, usage=Usage(output_tokens=10), answer=own, **more)  # type: ignore[arg-type]  # what a test adds


def scored(
    tmp_path: Path,
    traces: list[Trace],
    dropped: Mapping[int, int | None] | None = None,
    *,
    concluded: bool = True,
) -> ScoredProblem:
    """Return the only problem of a job with these traces; 42 is right."""
    selector = registry.load("selectors", PLAN.selector)
    with open_job(tmp_path / "job", PLAN, [PROBLEM]) as job:
        job.journal.append([Opened("p", digest(PROBLEM))])
        job.journal.append([Arrived("p", one, 0.0) for one in traces])
        if concluded:
            result = conclude(PROBLEM, traces, selector, dropped=dropped or {})
            job.journal.append([Concluded(result)])
    row = {"id": "p", "prompt": PROBLEM.prompt, "domain": "number", "answer": "42"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    [problem] = read_scored(tmp_path / "job", tmp_path / "p.jsonl").problems
    return problem


def test_each_attempt_has_its_state(tmp_path: Path) -> None:
    problem = scored(
        tmp_path,
        [
            trace(0, "42"),
            trace(1),
            trace(2, finish=Finish.LENGTH),
            trace(3, finish=Finish.CANCELLED),
            trace(4, finish=Finish.FAILED),
            trace(5, "42", finish=Finish.FAILED),
            trace(6, "7"),
        ],
    )
    assert [a.state for a in problem.attempts] == [
        AttemptState.VOTED,
        AttemptState.ABSTAINED,
        AttemptState.CUT_OFF,
        AttemptState.CANCELLED,
        AttemptState.FAILED,
        AttemptState.FAILED,
        AttemptState.VOTED,
    ]
    assert [a.right for a in problem.attempts] == [True, None, None, None, None, True, False]
    assert problem.outcome is Outcome.RIGHT


def test_a_dropped_attempt_keeps_its_own_answer(tmp_path: Path) -> None:
    """So that a right answer that was pruned away can be seen."""
    problem = scored(tmp_path, [trace(0, "42"), trace(1, "7")], {0: None})
    assert problem.outcome is Outcome.WRONG
    assert problem.has_dropped
    first = problem.attempts[0]
    assert (first.state, first.right) == (AttemptState.DROPPED, True)


def test_an_attempt_is_its_whole_lineage(tmp_path: Path) -> None:
    """Text and cost are those of all its stretches; a probe is no attempt."""
    problem = scored(
        tmp_path,
        [
            trace(0, finish=Finish.RULE),
            trace(1, "7", parent=0, purpose=Purpose.PROBE),
            trace(2, "42", parent=0),
        ],
    )
    [attempt] = problem.attempts
    assert attempt.trace.text == "part 0; The answer is 42."
    assert attempt.traces == (0, 2)
    assert attempt.usage.output_tokens == 20
    assert [other.ordinal for other in problem.others] == [1]


def test_a_lost_continuation_leaves_the_vote_to_what_it_continued(tmp_path: Path) -> None:
    problem = scored(tmp_path, [trace(0, "42"), trace(1, parent=0, finish=Finish.CANCELLED)])
    [attempt] = problem.attempts
    assert (attempt.state, attempt.right) == (AttemptState.VOTED, True)


def test_a_problem_without_a_result_is_open(tmp_path: Path) -> None:
    """A job that still runs, or was killed, is read as it is."""
    problem = scored(tmp_path, [trace(0, "42")], concluded=False)
    assert problem.outcome is Outcome.OPEN
    assert problem.result is None
    assert [a.state for a in problem.attempts] == [AttemptState.UNUSED]


def test_a_problem_that_was_not_opened_is_listed_with_its_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was stopped early lists all rows of its file."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"p{i}", "prompt": f"What is {i}?", "answer": "1"} for i in range(3)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_job(Path("job"), PLAN, []) as job:
        source = job_source(Path("p.jsonl"), 0, "auto")
        write_source(job, PLAN, Execution(engine=PluginSpec("fake")), source)
    problems = read_scored("job").problems
    assert [(p.problem.prompt, p.accepted, p.outcome) for p in problems] == [
        (f"What is {i}?", ("1",), Outcome.OPEN) for i in range(3)
    ]


@pytest.mark.parametrize(
    "traces",
    [
        [trace(0, "42", suffix_ids=(1,))],
        [trace(0, "42", subjects=(1,))],
        [trace(0, "42", finish=Finish.CANCELLED)],
        [trace(0, "42", finish=Finish.LENGTH)],
        [trace(0, "42", purpose=Purpose.AGGREGATE)],
    ],
    ids=["forced suffix", "revision", "cancelled", "cut off", "merger"],
)
def test_training_data_is_what_the_model_wrote(tmp_path: Path, traces: list[Trace]) -> None:
    """The same answer from a plain attempt is an example."""
    scored(tmp_path, traces)
    assert list(sft_rows(read_scored(tmp_path / "job", tmp_path / "p.jsonl"))) == []
    (plain := tmp_path / "plain").mkdir()
    scored(plain, [trace(0, "42")])
    [row] = sft_rows(read_scored(plain / "job", plain / "p.jsonl"))
    assert row["messages"][-1] == {"role": "assistant", "content": "The answer is 42."}
