"""The directory in which the examples of the docs and of the help are run."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.plan import registry

ROOT = Path(__file__).parents[2]
PLAN = """
problems = "problems.jsonl"
execution.engine = "fake"
strategy = {name = "consistency", n = 8}
models.main = {path = "fathom", max_depth = 8}
sampling.max_new_tokens = 64
"""
# A question with an answer after every ten tokens of each attempt, as in recordings with probes.
PROBED = {
    "question": "1 + 3?",
    "gold_answer": "4",
    "probe_freq": 10,
    "each_branch": [[["3", "4", "4"], 34, "4"], [["4", "4"], 28, "4"]] * 8,
}
TEXTS = [
    {"text": rf"So it is \boxed{{{n % 3}}}.", "tokens": 8 + n, "correct": False, "prm_score": 0.5}
    for n in range(8)
]
POOL = {"records": [{"problem_id": "a", "gold": "1", "traces": TEXTS}]}
LONG = ("--execution.engine", "fake", "--execution.engine.n_tokens", "60")
# The jobs of the examples, each a run of the same problems with another seed.
JOBS = ("plain", "adaptive", "small", "large", "a", "b")


@pytest.fixture
def engine_is_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default engine is the fake one, and what a block registers is forgotten afterwards."""
    decorated = {group: dict(names) for group, names in registry._decorated.items()}
    for name in ("ray", "vllm"):
        decorated["engines"][name] = registry.plugin_class("engines", "fake")
    monkeypatch.setattr(registry, "_decorated", decorated)


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file and job that an example names; each problem has a level."""
    world = tmp_path_factory.mktemp("world")
    shutil.copytree(ROOT / "examples", world / "examples")
    example = world / "examples" / "arithmetic.toml"
    example.write_text(example.read_text().replace('engine = "ray"', 'engine = "fake"'))
    rows = map(json.loads, (ROOT / "examples" / "arithmetic.jsonl").read_text().splitlines())
    problems = [row | {"level": 1 + i % 5} for i, row in enumerate(rows)]
    problems.append({"id": "q7", "prompt": "What is 3 + 4?", "answer": "7", "level": 1})
    names = ("problems.jsonl", "p.jsonl", "answers.jsonl", "dev.jsonl", "examples/arithmetic.jsonl")
    for name in names:
        (world / name).write_text("".join(json.dumps(row) + "\n" for row in problems))
    (world / "questions.csv").write_text("question,answer\nWhat is 3 + 4?,7\nWhat is 2 + 2?,4\n")
    (world / "data").mkdir()
    for name in ("data/a.jsonl", "questions.jsonl"):
        shutil.copy(world / "problems.jsonl", world / name)
    (world / "plan.toml").write_text(PLAN)
    (world / "question.txt").write_text("What is 17 + 25?")
    (world / "reply.txt").write_text("The answer is 5.")
    (world / "pool.json").write_text(json.dumps(POOL))
    for name in ("0.6B", "4B", "8B"):
        (world / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps([PROBED]).encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        example = ("run", "examples/arithmetic.toml", "-q", *LONG)
        run(*example)
        run(*example, "--strategy", "consistency", "--out", "runs/full")
        run(*example, "--selector", "weighted", "--out", "runs/weighted")
        wide = ("--strategy", "consistency", "--strategy.n", "64", "--limit", "2")
        run(*example, *wide, "--out", "runs/wide")
        for seed, name in enumerate(JOBS):
            job("--seed", str(seed), "--out", f"runs/{name}", "--strategy.n", "8")
        longer = (*LONG[:-1], "160", "--strategy", "consistency", "--strategy.n", "8")
        longer += ("--sampling.max_new_tokens", "400")
        run("run", "examples/arithmetic.toml", "-q", *longer, "--out", "runs/earlier")
        two = ("--models.one", "sounder", "--models.two", "smollm2")
        ensemble = ("--strategy", "ensemble", "--strategy.models", '["one", "two"]')
        job(*two, *ensemble, "--strategy.n", "8", "--out", "runs/ensemble")
        (world / "runs" / "fathom-sweep").mkdir()
        for name in ("best.toml", "deepen.toml"):
            shutil.copy("runs/arithmetic/plan.toml", f"runs/fathom-sweep/{name}")
        for name in ("depth-3", "depth-6"):
            job("--out", f"runs/fathom-sweep/{name}", "--strategy.n", "2")
    return world


def job(*flags: str) -> None:
    run("run", "--problems", "problems.jsonl", "--domain", "number", "-q", *LONG, *flags)


def run(*words: str) -> None:
    done = CliRunner().invoke(leadline, list(words))
    assert done.exit_code == 0, done.output


@pytest.fixture
def world(whole_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the whole world, as the working directory."""
    shutil.copytree(whole_world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"
