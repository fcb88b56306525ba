"""`leadline weights`: what it prints and refuses; the plan it prints runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, Finish, PluginSpec, Problem, Request, Trace, Usage
from orchestrator.engines.fake.engine import problem_number
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.studies.ensembles import Shares, cross_fitted, read_questions

Run = Callable[..., Result]


@registry.engine("test-models")
@dataclass(frozen=True, slots=True)
class Models:
    """Model `a` is right on even questions, `b` on odd ones; on the others each gives another wrong
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
        answer = (
            f"{float(problem_number(request.problem_id))}" if knows else f"{1000 + request.ordinal}"
        )
        return trace_for(
            request, Finish.STOP, text=f"The answer is {answer}.", usage=Usage(1, 0, 1)
        )

    def abort(self, request: Request) -> None:
        """Nothing runs long enough to be aborted."""


POOLS = (
    '[models.first]\npath = "a"\n[models.second]\npath = "b"\n'
    '[execution.engine]\nname = "test-models"\n'
)


@pytest.fixture
def ensemble(cli: Run) -> Run:
    """A job in which both models attempted every problem."""
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
    done = ensemble("weights", "runs/both", "--json")
    assert done.exit_code == 0, done.output
    fit = json.loads(done.stdout)
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
    questions = read_questions([tmp_path / "job-a", tmp_path / "job-fake"], "p.jsonl")
    assert (questions.models, questions.paths, questions.n_traces) == (
        ("job-a", "job-fake"),
        ("a", "fake"),
        (40, 40),
    )
    assert questions.shares["q0"].right[0] == 1.0, (
        "job-a is always right on even questions, and writes it as 727.0"
    )
    assert len(questions.shares["q0"].wrong) <= 4
    assert questions.n_left_out == 0
    assert "job-fake" in cli("weights", "job-a", "job-fake", "--problems", "p.jsonl").stdout


def test_held_out_questions_are_weighted_by_other_folds() -> None:
    """A fold's weights follow what the other folds are like."""
    first, second = Shares((1.0, 0.0), ((0.0, 1.0),)), Shares((0.0, 1.0), ((1.0, 0.0),))
    assert cross_fitted([first] * 10) == [True] * 10
    assert cross_fitted([second, *[first] * 4]) == [False, True, True, True, True], (
        "its fold's weights have never seen its kind"
    )
    assert cross_fitted([first] * 4) == []


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (["runs/none"], "there is no job in runs/none"),
        (
            ["one"],
            (
                "only one model was sampled, 'first': "
                "name a job in which several were, or one job for each"
            ),
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
def test_what_has_no_weights_is_refused(ensemble: Run, jobs: list[str], message: str) -> None:
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
    assert message in refused.stderr
