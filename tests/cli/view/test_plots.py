"""The plot of a replay: which rows make a line, and that a picture comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.view.plots import draw_plot, lines
from orchestrator.core.errors import PlanError
from orchestrator.core.values import PluginSpec
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.replay.experiment import MAJORITY, ReplayRow, ReplaySetting


def row(name: str, tokens: float, selector: PluginSpec = MAJORITY, **options: object) -> ReplayRow:
    none = dict.fromkeys(
        ("path_tokens", "n_attempts", "pruned_tokens", "probe_tokens", "pruning_errors"), 0.0
    )
    setting = ReplaySetting(PluginSpec(name, options), selector)
    accuracy, spent = Estimate(0.5, 0.4, None, 9), Estimate(tokens, None, None, 9)
    return ReplayRow("s", setting, accuracy, spent, full_tokens=None, full_accuracy=None, **none)


def test_a_line_runs_along_the_option_that_was_swept() -> None:
    """Three values of n make a line, in order of tokens; a single row is one without."""
    rows = [
        row("consistency", 30, n=4),
        row("consistency", 10, n=1),
        row("adaptive", 20, n=8),
        row("consistency", 90, n=16),
    ]
    found = {name: list(line) for name, line in lines(rows).items()}
    assert found == {"consistency, by n": ["1", "4", "16"], "adaptive": [""]}


def test_what_else_differs_makes_lines_of_its_own() -> None:
    """Two slopes of three risks are two lines, not one that runs to and fro; so are two selectors,
    and an option that only one has.
    """
    swept = [
        row("sounding", 10 / risk, risk=risk, slope=slope)
        for risk in (0.1, 0.2, 0.3)
        for slope in (0, 1)
    ]
    best = PluginSpec("best", {"by": "x"})
    rows = [
        *swept,
        row("sounding", 9, best, risk=0.1),
        row("adaptive", 5, n=4),
        row("adaptive", 6, n=8),
        row("adaptive", 7, n=4, rule="bayes"),
    ]
    found = {name: list(line) for name, line in lines(rows).items()}
    assert found == {
        "sounding slope=0, by risk": ["0.3", "0.2", "0.1"],
        "sounding slope=1, by risk": ["0.3", "0.2", "0.1"],
        "sounding → best by=x": [""],
        "adaptive, by n": ["4", "8"],
        "adaptive rule=bayes, by n": ["4"],
    }


def test_a_picture_comes_out(tmp_path: Path) -> None:
    """An interval may be missing at either end.

    An ending that it does not know is an error naming the file.
    """
    pytest.importorskip("matplotlib")
    rows = [row("consistency", 10, n=1), row("consistency", 5000, n=4)]
    draw_plot(rows, tmp_path / "p.png", "title")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlanError, match=r"--plot .*p\.xyz"):
        draw_plot(rows, tmp_path / "p.xyz", "title")
