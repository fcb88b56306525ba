"""Jobs of the fake engine whose reports are tested, and a browser to open them in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.core.values import Problem, Trace, Verdict
from orchestrator.plan import registry

Run = Callable[..., Path]
_ENGINE = ("--execution.engine", "fake", "--execution.engine.n_tokens", "60")
_REPLIES = (
    *("--execution.engine.spread_tokens", "200", "--execution.engine.weights", "[5,3,2]"),
    *("--sampling.max_new_tokens", "400"),
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a job or a sweep of 12 problems with these flags, and return its directory."""
    folder = tmp_path_factory.mktemp("jobs")
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"What is ${i} + 12$?",
            "answer": "12" if i % 3 else "8",
            "level": i % 2,
        }
        for i in range(12)
    ]
    problems = folder / "p.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(name: str, *flags: str, command: str = "run", answers: str = '["12","8","7"]') -> Path:
        out = folder / name
        if not out.exists():
            places = ("--problems", str(problems), "--out", str(out), "--domain", "number")
            replies = (*_REPLIES, "--execution.engine.answers", answers)
            arguments = [command, *places, "-q", *_ENGINE, *replies, *flags]
            done = CliRunner().invoke(leadline, arguments)
            assert done.exit_code == 0, done.output
        return out

    return made


@pytest.fixture(scope="session")
def sounding(run: Run) -> Path:
    """A job in which attempts are probed and dropped."""
    strategy = ("--strategy", "sounding", "--strategy.n", "8", "--strategy.interval", "40")
    return run("sounding", *strategy, "--strategy.patience", "2", "--strategy.risk", "0.05")


@registry.verifier("by-length")
@dataclass(frozen=True, slots=True)
class ByLength:
    """Scores a trace by its number of tokens, so that a search has something to climb."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict("by-length", min(1.0, t.usage.output_tokens / 300)) for t in traces]


@pytest.fixture(scope="session")
def islands(run: Run) -> Path:
    """A search in which populations evolve side by side."""
    sizes = ("--strategy.islands", "2", "--strategy.conversations", "2", "--strategy.turns", "2")
    strategy = ("--strategy", "mind-evolution", "--strategy.verifier", "by-length", *sizes)
    return run("islands", *strategy, "--strategy.generations", "2", "--verifiers", "by-length")


@pytest.fixture(scope="session")
def steps(run: Run) -> Path:
    """A search over steps that weighs attempts by requests of its own."""
    sizes = ("--strategy.n", "2", "--strategy.beam", "3", "--strategy.steps", "3")
    strategy = ("--strategy", "mits", "--selector", "pmi", *sizes)
    return run("steps", *strategy, "--strategy.delimiter", " wait")


@pytest.fixture(scope="session")
def sweep(run: Run) -> Path:
    """A sweep of two depths, of which the first is too little for half of the problems."""
    axes = ("--depths", "1,2", "--widths", "1,4")
    return run("sweep", *axes, "--execution.engine.steps", "2", command="sweep")


@pytest.fixture(scope="module")
def chromium(sounding: Path) -> Iterator[Any]:
    """Debian's Chromium; the tests that need it are skipped where it is missing.

    Playwright has an event loop of its own while it is open, in which no job can run.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
