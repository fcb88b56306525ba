"""Real processes of `leadline run` are ended at random, and their disk fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def campaign(*arguments: str) -> str:
    """Run a campaign in a process without threads, which may fork; return what it printed."""
    command = [sys.executable, str(FOLDER), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout


def test_jobs_of_every_strategy_survive_signals() -> None:
    """LEADLINE_KILLS sets how many; `make chaos` sends more."""
    campaign("signals", "--n", os.environ.get("LEADLINE_KILLS", "30"), "--seed", "7")


def test_jobs_survive_calls_that_fail() -> None:
    """Without strace nothing fails, and the program reports it."""
    campaign("disk", "--n", "15", "--seed", "7")
