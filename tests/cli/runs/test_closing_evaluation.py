"""The evaluation at the end of a run is extra: whatever happens to it, the results are there."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.plan import registry

FRAIL = '''
import dataclasses, os, signal
from pathlib import Path
from typing import ClassVar

from orchestrator.plan import registry

@registry.domain("frail")
@dataclasses.dataclass(frozen=True)
class Frail:
    """Its process dies, or interrupts its parent, once the results of a job are written."""
    parent: int
    results: str
    interrupts: bool = False
    in_process: ClassVar[bool] = False

    def __post_init__(self):
        if os.getpid() != self.parent and Path(self.results).exists():
            if self.interrupts:
                os.kill(self.parent, signal.SIGINT)
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)

    def extract(self, text, finished):
        return text

    def canonical(self, answer):
        return answer

    def equivalent(self, a, b):
        return a == b
'''


@pytest.fixture
def frail_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Result]:
    """Run one problem under the domain, in a directory of its own."""
    (tmp_path / "frail_domain.py").write_text(FRAIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry._decorated, "domains", {})
    monkeypatch.delitem(sys.modules, "frail_domain", raising=False)
    importlib.import_module("frail_domain")
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "q", "prompt": "?", "answer": "5"}))

    def run(interrupts: bool) -> Result:
        options = {
            "parent": str(os.getpid()),
            "results": str(tmp_path / "job" / "results.jsonl"),
            "interrupts": str(interrupts).lower(),
        }
        flags = [f for k, v in options.items() for f in (f"--domains.frail.{k}", v)]
        common = ["run", "--problems", "p.jsonl", "--execution.engine", "fake", "--out", "job"]
        return CliRunner().invoke(leadline, [*common, "--domain", "frail", *flags])

    return run


@pytest.mark.parametrize(
    ("interrupts", "reason", "exit_code"),
    [(False, "killed by SIGKILL", 0), (True, "interrupted", 130)],
)
def test_an_evaluation_that_fails_is_a_note_and_the_results_are_written(
    frail_run: Callable[[bool], Result],
    tmp_path: Path,
    interrupts: bool,
    reason: str,
    exit_code: int,
) -> None:
    """What was paid for is complete; the accuracy can be had later. Ctrl-C ends as it always does,
    so that a script does not continue with its next command.
    """
    ended = frail_run(interrupts)
    assert ended.exit_code == exit_code, ended.output
    assert reason in ended.stderr
    assert "leadline eval job" in ended.stderr
    assert "1 answered" in ended.stdout
    [row] = map(json.loads, (tmp_path / "job" / "results.jsonl").read_text().splitlines())
    assert row["status"] == "answered"
