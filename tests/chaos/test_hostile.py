"""Hostile plans, problem files and replies, and torn directories: messages, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import campaign, torn


def test_thirty_hostile_plans_and_files_end_with_a_message(tmp_path: Path) -> None:
    """`make chaos` gives thousands."""
    ends = campaign.give(tmp_path, 7, 30, "", lambda text: None)
    assert {"plan 2", "problems 0", "problems 2"} <= ends.keys()  # it has met both kinds of end


@pytest.mark.slow
def test_hostile_replies_are_data(tmp_path: Path) -> None:
    """Of two jobs, one with answers that are read in worker processes."""
    for kind in ("number", "math"):
        campaign.give_replies(tmp_path, 7, kind)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torn_directories_are_continued_or_refused(tmp_path: Path) -> None:
    assert torn.tear(tmp_path, 7, 30, "", lambda text: None)["the log cut off: 0"] > 5
