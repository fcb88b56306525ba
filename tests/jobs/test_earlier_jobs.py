"""A job that version 0.1 began is resumed, shown and replayed by this one.

tests/jobs/job_0_1 was made by the last commit before the modules moved, and killed when 5 of its 12
problems had a result and 3 more were under way. results.jsonl is what that version made of it.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.values import Purpose
from orchestrator.studies.replay.files import read_recording

JOB = Path(__file__).with_name("job_0_1")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the job, in the folder in which the same command finds it again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for name in ("problems.jsonl", "plan.toml"):
        shutil.copy(JOB / name, tmp_path)
    (tmp_path / "out" / "journal.db").write_bytes(
        gzip.decompress((JOB / "journal.db.gz").read_bytes())
    )
    shutil.copy(JOB / "recorded_plan.toml", tmp_path / "out" / "plan.toml")
    return tmp_path / "out"


def run(*arguments: str) -> tuple[str, list[dict[str, object]]]:
    done = CliRunner().invoke(leadline, ["run", "plan.toml", "--out", "out", *arguments])
    assert done.exit_code == 0, done.output
    return done.output, [
        json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()
    ]


def test_it_is_finished_with_the_results_it_would_have_had(begun: Path) -> None:
    """Same fingerprint, seeds and answers: of the problems under way only what is owed is asked."""
    _, rows = run("--execution.engine.seconds_per_token", "0")
    expected = [json.loads(line) for line in (JOB / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    assert {row["fingerprint"] for row in rows} == {row["fingerprint"] for row in expected}
    for row, then in zip(rows[:5], expected[:5], strict=True):  # finished before the move
        assert (row["answer"], row["votes"], row["n_traces"]) == (
            then["answer"],
            then["votes"],
            then["n_traces"],
        )
        assert row["n_planned"] == then["n_full"]
    assert all(row["status"] == "answered" for row in rows)


def test_its_former_names_are_read_with_a_notice(begun: Path) -> None:
    output, _ = run("--execution.engine.seconds_per_token", "0")
    assert "note: plan.toml: [fleet] is now called [execution]" in output
    assert "note: strategy.judge is now called strategy.similarity" in output


def test_its_comparisons_are_read_as_such(begun: Path) -> None:
    """`Purpose.COMPARE` was "judge" in the journals of 0.1."""
    purposes = {trace.purpose for trace in orchestrator.traces(begun, "p0")}
    assert Purpose.COMPARE in purposes


def test_it_is_a_recording_as_before(begun: Path) -> None:
    run("--execution.engine.seconds_per_token", "0")
    assert len(read_recording(begun).problems) == 12


def test_it_grows(begun: Path) -> None:
    """Its traces carry no more than today's, so they are of the same use under another budget."""
    output, rows = run("--budget.tokens", "100000", "--execution.engine.seconds_per_token", "0")
    assert "out continues with a changed plan" in output
    assert "budget.tokens: 0 -> 100000" in output
    assert [row["status"] for row in rows] == ["answered"] * 12
    assert len({row["fingerprint"] for row in rows}) == 1
