"""Processes are killed at random: no hang, and nothing lost, repeated or paired with another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_survive_30_kills_of_workers_and_trees(tmp_path: Path) -> None:
    """Over ten strategies; `chaos.py` has what is checked, and runs more kills by itself."""
    program = Path(__file__).with_name("chaos.py")
    command = [sys.executable, str(program), str(tmp_path), "--kills", "30", "--seed", "7"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "all whole" in ended.stdout
