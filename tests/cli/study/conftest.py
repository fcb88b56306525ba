"""What tests of the study commands share: a directory of its own with ten problems and a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.engines.fake.engine import problem_number


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in that directory, in this process."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "answer": problem_number(f"q{i}")}
        for i in range(10)
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))
