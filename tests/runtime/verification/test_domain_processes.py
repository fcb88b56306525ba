"""A domain that declares nothing is read in a worker process, from the first text to accuracy."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator import Execution, Plan
from orchestrator.cli.main import leadline
from orchestrator.plan import registry

WHERE = '''
import dataclasses, os

from orchestrator.plan import registry

@registry.domain("where")
@dataclasses.dataclass(frozen=True)
class Where:
    """Its answers are the processes that read them."""

    def extract(self, text, finished):
        return f"read by {os.getpid()}"

    def canonical(self, answer):
        return f"formed by {os.getpid()}, {answer}"

    def equivalent(self, a, b):
        return a.startswith("read by") and b.startswith("read by")
'''


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "where_domain.py").write_text(WHERE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry._decorated, "domains", {})
    monkeypatch.delitem(sys.modules, "where_domain", raising=False)
    importlib.import_module("where_domain")


@pytest.mark.usefixtures("where")
def test_a_domain_without_in_process_is_read_and_compared_in_a_worker() -> None:
    """docs/plugins.md: "Unless the class sets in_process"."""
    rows = [{"id": "a", "prompt": "?", "answer": "read by a person"}, {"id": "b", "prompt": "!"}]
    plan = Plan(strategy={"name": "consistency", "n": 3}, domain="where")
    results = orchestrator.run(rows, plan, Execution(engine="fake"), out="job")
    for result in results:
        [cluster] = result.clusters
        assert (cluster.count, result.error) == (3, "")
        assert cluster.answer.text.startswith("read by ")
        assert cluster.answer.text != f"read by {os.getpid()}"
        assert f"formed by {os.getpid()}" not in cluster.answer.key
    assert orchestrator.accuracy(results).value == 1.0


@pytest.mark.usefixtures("where")
def test_leadline_answers_reads_with_such_a_domain() -> None:
    done = CliRunner().invoke(leadline, ["answers", "x", "--domain", "where", "--json"])
    assert done.exit_code == 0, done.output
    [reading] = json.loads(done.stdout)
    assert reading["answer"].startswith("read by ")
    assert reading["answer"] != f"read by {os.getpid()}"
