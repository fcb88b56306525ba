"""`leadline temperature` and `leadline weights`: what they print, write and refuse.

The numbers behind them have their own tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, Finish, PluginSpec, Problem, Request, Trace, Usage
from orchestrator.engines.fake.engine import problem_number
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.studies.ensembles import Shares, cross_fitted, read_questions

Run = Callable[..., Result]
opened: list[int] = []  # one entry per engine that was started
asked: list[float] = []  # the temperature of every request


@registry.engine("test-turning")
@dataclass(frozen=True, slots=True)
class Turning:
    """An engine whose entropy at a temperature is known; it may break at one."""

    turn: float = 0.75
    fails_at: float = 0.0

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.LOGPROBS, Capability.SEED})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Turning]:
        opened.append(1)
        yield self

    async def generate(self, request: Request) -> Trace:
        assert request.sampling is not None
        t = request.sampling.temperature
        asked.append(t)
        if t == self.fails_at:
            raise orchestrator.EngineError("this engine breaks at that temperature")
        metrics = {"mean_logprob": -math.exp((t - self.turn) ** 3 + 0.5 * t)}
        return trace_for(
            request, Finish.STOP, text="The answer is 4.", metrics=metrics, usage=Usage(1, 0, 1)
        )

    def abort(self, request: Request) -> None:
        """Nothing runs long enough to be aborted."""


@registry.engine("test-models")
@dataclass(frozen=True, slots=True)
class Models:
    """Model `a` is right on even questions, `b` on odd ones; on the others each says another wrong
    answer every time.
    """

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.SEED})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[_Bound]:
        yield _Bound({name: model.path for name, model in models.items()})


@dataclass(frozen=True, slots=True)
class _Bound:
    paths: Mapping[str, str]

    async def generate(self, request: Request) -> Trace:
        place = int(request.problem_id.removeprefix("q"))
        knows = (place % 2 == 0) == (self.paths[request.model] == "a")
        said = (
            f"{float(problem_number(request.problem_id))}" if knows else f"{1000 + request.ordinal}"
        )
        return trace_for(request, Finish.STOP, text=f"The answer is {said}.", usage=Usage(1, 0, 1))

    def abort(self, request: Request) -> None:
        """Nothing runs long enough to be aborted."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, with ten problems and a plan."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "answer": problem_number(f"q{i}")}
        for i in range(10)
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("plan.toml").write_text(
        'problems = "p.jsonl"\ndomain = "number"\n[execution.engine]\nname = "test-turning"\n'
    )
    opened.clear()
    asked.clear()
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


# --- temperature
# -----------------------------------------------------------------------------------------------------------


def test_the_turn_of_the_engines_curve_is_found_on_one_engine(cli: Run) -> None:
    """The curve turns at .75, so .8 is the first grid point behind it; fourteen jobs, one engine;
    best-of-n takes 0.1 more.
    """
    shown = cli("temperature", "plan.toml", "--samples", "4")
    assert shown.exit_code == 0, shown.output
    assert "sampling.temperature = 0.8" in shown.stdout
    assert "◆" in next(line for line in shown.stdout.splitlines() if line.split()[:1] == ["0.8"])
    assert len(opened) == 1
    again = cli("temperature", "plan.toml", "--samples", "4", "--for", "best", "--json")
    choice = json.loads(again.stdout)
    assert (choice["temperature"], choice["turn"], len(choice["entropies"])) == (0.9, 0.8, 14)
    assert len(opened) == 1, "all was there"
    assert json.loads(Path("runs/plan-temperature/temperature.json").read_text()) == choice


def test_a_measurement_that_was_cut_goes_on(cli: Run) -> None:
    """What arrived at earlier temperatures is not sampled again."""
    flags = ("temperature", "plan.toml", "--samples", "2", "--temperatures", "0.4,0.6,0.8,1.0,1.2")
    cut = cli(*flags, "--execution.engine.fails_at", "0.8")
    assert cut.exit_code == 1
    assert "breaks at that temperature" in cut.stderr
    assert asked[:4] == [0.4, 0.4, 0.6, 0.6]
    asked.clear()
    assert "sampling.temperature = 0.8" in cli(*flags, "-q").stdout
    assert asked == [0.8, 0.8, 1.0, 1.0, 1.2, 1.2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--temperatures", "0.5,0.7"],
            "--temperatures '0.5,0.7': give at least three numbers above 0, ascending",
        ),
        (["--temperatures", "0.5,0.4,0.7"], "ascending, as in 0.4,0.6,0.8,1.0"),
        (["--temperatures", "0,1,x"], "--temperatures '0,1,x'"),
        (["--execution.engine", "vllm"], "set the vLLM engine's option processed_logprobs = true"),
        (
            ["--execution.engine", "test-models"],
            "needs 'logprobs', which engine 'test-models' does not offer",
        ),
        (["--out", "job"], "job is the directory of a job; choose another with --out"),
        (["--sampling.temperature", "1"], "No such option"),
    ],
)
def test_what_cannot_be_measured_is_refused(cli: Run, arguments: list[str], said: str) -> None:
    """Before anything starts, with a remedy."""
    cli("run", "plan.toml", "--out", "job", "--limit", "1", "-q")
    opened.clear()
    refused = cli("temperature", "plan.toml", *arguments)
    assert refused.exit_code == 2, refused.output
    assert said in refused.stderr
    assert not opened


# --- weights
# ---------------------------------------------------------------------------------------------------------------

POOLS = '[models.first]\npath = "a"\n[models.second]\npath = "b"\n[execution.engine]\nname = "test-models"\n'


@pytest.fixture
def ensemble(cli: Run) -> Run:
    """A job in which both models were asked of every problem."""
    Path("both.toml").write_text(f'problems = "p.jsonl"\ndomain = "number"\n{POOLS}')
    done = cli(
        "run",
        "both.toml",
        "--strategy",
        "ensemble",
        "--strategy.models",
        '["first", "second"]',
        "--strategy.n",
        "12",
        "-q",
    )
    assert done.exit_code == 0, done.output
    return cli


def test_two_models_that_complement_each_other_answer_everything(ensemble: Run) -> None:
    """Each is right alone on half of the questions, together on all: wrong answers differ from draw
    to draw, the right one does not.
    """
    shown = ensemble("weights", "runs/both", "--json")
    assert shown.exit_code == 0, shown.output
    fit = json.loads(shown.stdout)
    assert (fit["models"], fit["paths"]) == (["first", "second"], ["a", "b"])
    assert [own["value"] for own in fit["alone"]] == [0.5, 0.5]
    assert (fit["fitted"]["value"], fit["fitted"]["n"]) == (1.0, 10)
    assert sum(fit["weights"]) == pytest.approx(1.0, abs=1e-5)
    assert min(fit["weights"]) > 0.1
    assert fit["held_out"]["n"] == 10
    table = ensemble("weights", "runs/both").stdout
    assert (
        'in a plan: strategy = {name = "ensemble", models = ["first", "second"], weights = ['
        in table
    )


def test_the_plan_that_is_printed_runs(ensemble: Run) -> None:
    """Copied as it stands."""
    line = next(
        part
        for part in ensemble("weights", "runs/both").stdout.splitlines()
        if part.startswith("in a plan: ")
    )
    Path("weighted.toml").write_text(
        f'problems = "p.jsonl"\ndomain = "number"\n{line.removeprefix("in a plan: ")}\n{POOLS}'
    )
    assert ensemble("run", "weighted.toml", "-q").exit_code == 0


def test_jobs_of_one_model_each_are_one_pool_with_common_classes(cli: Run, tmp_path: Path) -> None:
    """Both jobs call their pool `main` and so go by their directories; "7.0" of one and "7" of the
    other are one answer.
    """
    problems = [Problem(f"q{i}", f"What is {i}?", "number") for i in range(10)]
    for name, engine in (("a", "test-models"), ("fake", "fake")):
        plan = Plan(
            models={"main": Model(name)},
            strategy=PluginSpec("consistency", {"n": 4}),
            domain="number",
        )
        orchestrator.run(
            problems, plan, Execution(engine=PluginSpec(engine)), out=tmp_path / f"job-{name}"
        )
    found = read_questions([tmp_path / "job-a", tmp_path / "job-fake"], "p.jsonl")
    assert (found.models, found.paths, found.n_traces) == (
        ("job-a", "job-fake"),
        ("a", "fake"),
        (40, 40),
    )
    assert found.shares["q0"].right[0] == 1.0, (
        "job-a is always right on even questions, and says so as 727.0"
    )
    assert len(found.shares["q0"].wrong) <= 4
    assert found.n_left_out == 0
    assert "job-fake" in cli("weights", "job-a", "job-fake", "--problems", "p.jsonl").stdout


def test_held_out_questions_are_judged_by_other_folds() -> None:
    """A fold's weights follow what the other folds are like."""
    first, second = Shares((1.0, 0.0), ((0.0, 1.0),)), Shares((0.0, 1.0), ((1.0, 0.0),))
    assert cross_fitted([first] * 10) == [True] * 10
    assert cross_fitted([second, *[first] * 4]) == [False, True, True, True, True], (
        "its fold's weights have never seen its kind"
    )
    assert cross_fitted([first] * 4) == []


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        (["runs/none"], "there is no job in runs/none"),
        (
            ["one"],
            "only one model was sampled, 'first': name a job in which several were, or one job for each",
        ),
        (
            ["runs/both", "--problems", "bare.jsonl"],
            "bare.jsonl has no reference answers (`answer`)",
        ),
        (
            ["runs/both", "--problems", "other.jsonl"],
            "no question with a reference in other.jsonl was attempted by all of first, second",
        ),
        (["one", "copy/one"], "two of the jobs are called 'one': rename the directory of one"),
    ],
)
def test_what_has_no_weights_is_refused(ensemble: Run, jobs: list[str], said: str) -> None:
    """With a remedy."""
    Path("bare.jsonl").write_text('{"id": "q0", "prompt": "What is 0?"}\n')
    Path("other.jsonl").write_text('{"id": "x", "prompt": "What?", "answer": 1}\n')
    for place in ("one", "copy/one"):
        ensemble(
            "run",
            "both.toml",
            "--strategy",
            "consistency",
            "--strategy.n",
            "2",
            "--out",
            place,
            "-q",
        )
    refused = ensemble("weights", *jobs)
    assert refused.exit_code == 2, refused.output
    assert said in refused.stderr
