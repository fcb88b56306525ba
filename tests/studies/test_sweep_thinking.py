"""Thinking as an axis of a sweep: the surface, its cost, the plan of its cheapest setting, and what
is refused. The fake engine's problems take 1 to 64 tokens of thinking.
"""

from __future__ import annotations

import itertools
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.engines.fake.engine import problem_number
from orchestrator.engines.fake.thinking import problem_thinking

IDS = [f"q{i}" for i in range(60)]
NEEDED = {id: problem_thinking(id, 64) for id in IDS}
PLAN = """
problems = "p.jsonl"
domain = "number"
[sampling]
max_new_tokens = 200
[models.main]
path = "any"
max_depth = 8
[execution.engine]
name = "fake"
answers = ["{hash}", "2000", "2001", "2002"]
weights = [17, 1, 1, 1]
thinking = 64
"""
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, in this process, with 60 problems and a plan."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": id, "prompt": f"What is {id}?", "answer": problem_number(id)} for id in IDS]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("plan.toml").write_text(PLAN)
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


def swept(cli: Run, *flags: str) -> Any:
    """Return the numbers of a sweep in the directory `s`."""
    done = cli("sweep", "plan.toml", "--out", "s", *flags)
    assert done.exit_code == 0, done.output
    return json.loads(Path("s/surface.json").read_text())


def accuracy(setting: Any) -> float:
    """Return the accuracy of one setting."""
    return float(setting["accuracy"]["value"])


def test_a_sweep_draws_accuracy_over_thinking_and_width(cli: Run) -> None:
    """A problem whose thinking fits the limit is right 17 times in 20, any other 1 time in 4.

    Width 16 of the first kind is right with probability above .999. So the accuracy at width 16 is
    at least the share of problems that fit, less one of the 60, and rises with the limit.
    """
    found = swept(cli, "--thinking", "8,32,64", "--widths", "1..16")
    at = {(s["thinking"], s["width"]): s for s in found["settings"]}
    assert at.keys() == set(itertools.product((8, 32, 64), (1, 2, 4, 8, 16)))
    for limit in (8, 32, 64):
        fits = sum(n <= limit for n in NEEDED.values()) / 60
        assert accuracy(at[limit, 16]) >= fits - 1 / 60
        tokens = sum(min(n, limit) for n in NEEDED.values()) / 60
        assert at[limit, 4]["reasoning_tokens"] == pytest.approx(4 * tokens)
    assert accuracy(at[8, 16]) < accuracy(at[32, 16]) - 0.1 < accuracy(at[64, 16]) - 0.2
    assert at[8, 1]["layer_tokens"] < at[32, 1]["layer_tokens"] < at[64, 1]["layer_tokens"]
    assert Path("s/surface.png").read_bytes().startswith(b"\x89PNG")
    for limit in (8, 32, 64):
        assert Path(f"s/thinking-{limit}/journal.db").exists()


def test_the_plan_of_the_cheapest_setting_has_its_thinking(cli: Run) -> None:
    """Run, it repeats the setting's traces and its cost."""
    found = swept(cli, "--thinking", "8,64", "--widths", "4,8", "-q")
    chosen = found["settings"][found["cheapest"]]
    assert chosen["thinking"] == 64
    assert tomllib.loads(Path("s/best.toml").read_text())["sampling"]["thinking_tokens"] == 64
    again = json.loads(cli("run", "s/best.toml", "--json").stdout)["report"]
    assert again["n_traces"] == 60 * chosen["width"]
    assert again["total"]["layer_tokens"] == pytest.approx(60 * chosen["layer_tokens"])
    assert again["total"]["reasoning_tokens"] == pytest.approx(60 * chosen["reasoning_tokens"])


@pytest.fixture
def plain(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same without matplotlib, whose pictures take most of the time."""
    monkeypatch.setitem(sys.modules, "orchestrator.cli.view.plots", None)
    return cli


def test_both_axes_are_in_one_table(plain: Run) -> None:
    """One row for each thinking of each depth; without a limit it is the job of that depth.

    64 tokens are enough for every problem, so no limit is no better: the first of both is named.
    """
    shown = plain(
        *("sweep", "plan.toml", "--out", "s", "--depths", "1,2", "--thinking", "8,64,0"),
        *("--widths", "1,2", "--execution.engine.steps", "2"),
    )
    assert shown.exit_code == 0, shown.output
    assert "no limit" in shown.stdout
    assert {p.name for p in Path("s").iterdir() if p.is_dir()} == {
        *("depth-1", "depth-1-thinking-8", "depth-1-thinking-64"),
        *("depth-2", "depth-2-thinking-8", "depth-2-thinking-64"),
    }
    found = json.loads(Path("s/surface.json").read_text())
    assert (found["depths"], found["thinking"]) == ([1, 2], [8, 64, 0])
    rows = [(s["depth"], s["thinking"], s["width"]) for s in found["settings"]]
    assert rows == list(itertools.product((1, 2), (8, 64, 0), (1, 2)))
    at = {(s["depth"], s["thinking"]): accuracy(s) for s in found["settings"] if s["width"] == 2}
    assert at[2, 64] > max(at[2, 8], at[1, 64]) + 0.1
    chosen = found["settings"][found["cheapest"]]
    assert (chosen["depth"], chosen["thinking"]) == (2, 64)
    deepen = tomllib.loads(Path("s/deepen.toml").read_text())
    assert deepen["sampling"]["thinking_tokens"] == 64
    [level] = [e for e in found["levels"] if (e["depth"], e["thinking"]) == (2, 64)]
    assert deepen["strategy"]["accuracies"][-1] == pytest.approx(level["accuracy"], abs=1e-4)
    assert plain("run", "s/deepen.toml").exit_code == 0


def test_budget_forcing_sweeps_its_own_limit(plain: Run) -> None:
    """Its attempts are two traces, thinking and reply, and both are in the cost of a width."""
    flags = ("--strategy", "budget-forcing", "--strategy.ignore", "0")
    found = swept(plain, "--thinking", "8,64", "--widths", "2", "-q", *flags)
    by_limit = {s["thinking"]: s for s in found["settings"]}
    for limit, setting in by_limit.items():
        tokens = 2 * sum(min(n, limit) for n in NEEDED.values()) / 60
        assert setting["reasoning_tokens"] == pytest.approx(tokens)
        job = json.loads(plain("eval", f"s/thinking-{limit}", "--json").stdout)
        total = job["selectors"][0]["report"]["total"]
        assert total["reasoning_tokens"] == pytest.approx(60 * tokens)
    assert accuracy(by_limit[64]) > accuracy(by_limit[8]) + 0.3
    best = tomllib.loads(Path("s/best.toml").read_text())
    assert (best["strategy"]["name"], best["strategy"]["thinking"]) == ("budget-forcing", 64)
    assert best["sampling"].get("thinking_tokens", 0) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--thinking", "x"], ["--thinking 'x'", "whole numbers from 1"]),
        (["--thinking", "0..8"], ["--thinking '0..8'", "whole numbers from 1"]),
        (
            ["--thinking", "8,200"],
            ["sampling.thinking_tokens = 200", "less than sampling.max_new_tokens (200)"],
        ),
        (
            ["--thinking", "8", "--execution.engine", "openai", "--models.main.max_depth", "0"],
            ["sampling.thinking_tokens = 8", 'server = "vllm"', "reasoning_effort"],
        ),
        (
            ["--thinking", "8,0", "--strategy", "budget-forcing"],
            ["--thinking 0", "budget-forcing always limits thinking"],
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_starts(
    cli: Run, arguments: list[str], words: list[str]
) -> None:
    refused = cli("sweep", "plan.toml", *arguments)
    assert refused.exit_code == 2, refused.output
    for word in words:
        assert word in refused.stderr, refused.stderr
    assert not Path("runs").exists()
