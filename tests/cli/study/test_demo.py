"""`leadline demo`: the jobs that ship in the package are read by the commands of this version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.report.scored import Outcome, read_scored


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
    assert len(pruned.problems) == 24 == len(pruned.correctness)
    assert any(p.has_dropped for p in pruned.problems)
    assert not pruned.notes
    assert {p.outcome for p in pruned.problems} == {Outcome.RIGHT, Outcome.WRONG}
    assert any(p.is_tied for p in pruned.problems)


@pytest.mark.slow
@pytest.mark.skipif("sys.platform in ('darwin', 'win32')", reason="would open a browser")
def test_depth_and_width_both_matter_in_the_demo(tmp_path: Path) -> None:
    """A model that one deep attempt solves would have nothing to show about width.

    The intervals of what they gain over the best setting leave out zero.
    """
    done = CliRunner().invoke(leadline, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.output
    surface = json.loads((tmp_path / "demo/sweep/surface.json").read_text())
    settings = {(one["depth"], one["width"]): one for one in surface["settings"]}
    deepest, widest = max(surface["depths"]), max(surface["widths"])
    assert settings[deepest, widest]["accuracy"]["value"] < 1
    assert settings[deepest, 1]["below_best"]["low"] > 0
    assert settings[min(surface["depths"]), widest]["below_best"]["low"] > 0


def test_the_demo_leaves_what_is_there_alone(tmp_path: Path) -> None:
    """A directory of something else is refused, with the remedy."""
    (tmp_path / "mine.txt").write_text("x")
    done = CliRunner().invoke(leadline, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "give --out DIR" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
