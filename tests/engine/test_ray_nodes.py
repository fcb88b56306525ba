"""A real vLLM over two nodes of a Ray cluster: what is lost with a node is done again, equally."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra `cpu` or `cuda`")
pytest.importorskip("vllm", reason="needs the extra `cpu` or `cuda`")
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


def test_an_engine_over_two_nodes_gives_the_same_tokens_after_one_died_and_one_hung() -> None:
    """Its parts are in processes on two nodes; each loss ends both, and a third node takes over."""
    command = [sys.executable, "benchmarks/outages.py", "vllm", "--spread", "--problems", "4"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["disturbances"] == 2
    assert [found[key] for key in ("traces", "lost", "repeated", "mispaired")] == [64, 0, 0, 0]
