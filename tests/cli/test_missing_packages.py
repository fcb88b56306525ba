"""A package that is not installed is a mistake in the plan or the command: exit code 2, and the
remedy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline

RUN = ("run", "--problems", "p.jsonl", "--out", "job")


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("ray", (*RUN, "--model", "m", "--execution.engine", "ray"), "cpu"),
        ("openai", (*RUN, "--model", "m", "--execution.engine", "openai"), "http"),
        ("vllm.v1.engine.async_llm", (*RUN, "--execution.engine", "vllm"), "cpu"),
        ("pyarrow", ("run", "--problems", "p.parquet", "--execution.engine", "fake"), "parquet"),
        ("pyarrow", ("export", "done", "--to", "parquet"), "parquet"),
        (
            "matplotlib",
            ("replay", "done", "--strategy", "consistency n=1", "--plot", "a.png"),
            "plot",
        ),
    ],
)
def test_it_is_named_with_the_extra_that_brings_it(
    package: str,
    command: tuple[str, ...],
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"id": "a", "prompt": "1 + 1?", "answer": "2"}\n')
    Path("p.parquet").write_bytes(b"PAR1")
    fake = ("--execution.engine", "fake", "--strategy.n", "2", "-q")
    done = CliRunner().invoke(leadline, ["run", "--problems", "p.jsonl", "--out", "done", *fake])
    assert done.exit_code == 0, done.output
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith("orchestrator.cli.view.plots")]:
        monkeypatch.delitem(sys.modules, name)
    failed = CliRunner().invoke(leadline, list(command))
    assert failed.exit_code == 2, failed.output
    assert f"leadline[{extra}]" in failed.stderr
