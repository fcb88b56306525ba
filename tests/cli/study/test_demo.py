"""`leadline demo`: the jobs that ship in the package are read by the commands of this version."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.report.scored import read_scored


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
@pytest.mark.skipif("sys.platform in ('darwin', 'win32')", reason="would open a browser")
def test_the_demo_is_a_report_of_jobs_that_can_be_read(tmp_path: Path) -> None:
    """It is the first thing that a user sees, and no engine could make it again in the tests."""
    out = tmp_path / "demo"
    for _ in range(2):  # the second time with the jobs that are there
        done = CliRunner().invoke(leadline, ["demo", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert str(out / "report.html") in done.output
    pruned = read_scored(out / "pruned")
    assert len(pruned.problems) == 28 == len(pruned.correctness)
    assert any(p.has_dropped for p in pruned.problems)
    assert not pruned.notes


def test_the_demo_leaves_what_is_there_alone(tmp_path: Path) -> None:
    """A directory of something else is refused, with the remedy."""
    (tmp_path / "mine.txt").write_text("x")
    done = CliRunner().invoke(leadline, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "give --out DIR" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
