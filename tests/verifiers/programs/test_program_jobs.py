"""Whole jobs with programs as answers, on the fake engine: what the tests find is chosen, and a
broken check costs its score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Status
from orchestrator.jobs.problems import read_problems
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import load_plan

needs_sandbox = pytest.mark.usefixtures("sandboxing")
WRONG, RIGHT = (
    "\n```python\ndef double(x): return x * x\n```\n",
    "\n```python\ndef double(x): return x + x\n```\n",
)
ROW = {
    "id": "double",
    "prompt": "Write double(x).",
    "tests": "assert double(2) == 4\nassert double(3) == 6",
}
ENGINE = PluginSpec("fake", {"answers": (WRONG, RIGHT), "weights": (4.0, 1.0)})


@needs_sandbox
def test_the_program_that_passes_is_chosen_though_it_is_rare() -> None:
    """One in five is right, and the wrong ones pass a half of the tests: the vote would be for
    them, the best by its verdict is right.

    P(no right one among 12) = .8^12 = .07; the seed is fixed.
    """
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 12}),
        selector=PluginSpec("best", {"by": "verdict:code-tests"}),
        domain="code",
        verifiers=(PluginSpec("code-tests"),),
    )
    [result] = orchestrator.run([ROW], plan, Execution(engine=ENGINE))
    best, other = result.clusters
    assert (best.answer.text, best.weight) == ("def double(x): return x + x", 1.0)
    assert (other.answer.text, other.weight) == ("def double(x): return x * x", 0.5)
    assert 0 < best.count < other.count


@needs_sandbox
def test_the_example_runs(tmp_path: Path) -> None:
    """The shipped plan with the fake engine, which writes the same program for every exercise: it
    passes those that it solves.
    """
    example = Path(__file__).parents[3] / "examples" / "programs.toml"
    loaded = load_plan(example, {"strategy.n": "1"})
    assert loaded.problems is not None
    problems = read_problems(loaded.problems, default_domain=loaded.plan.domain).problems
    only = PluginSpec("fake", {"answers": ("\n```python\ndef double(x): return 2 * x\n```\n",)})
    results = orchestrator.run(problems, loaded.plan, Execution(engine=only), out=tmp_path)
    scores = {}
    for result in results:
        [trace] = orchestrator.traces(tmp_path, result.problem_id)
        assert trace.note == ""
        scores[result.problem_id] = trace.verdicts[0].score
    assert scores == {problem.id: float(problem.id == "double") for problem in problems}


@needs_sandbox
def test_a_problem_without_tests_is_answered_without_a_score(tmp_path: Path) -> None:
    """Its traces say why; the other problem is not concerned."""
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 2}),
        domain="code",
        verifiers=(PluginSpec("code-tests"),),
    )
    bare = {"id": "bare", "prompt": "Write it."}
    results = orchestrator.run([bare, ROW], plan, Execution(engine=ENGINE), out=tmp_path)
    assert [result.status for result in results] == [Status.ANSWERED] * 2
    for trace in orchestrator.traces(tmp_path, "bare"):
        assert trace.verdicts == ()
        assert (
            "verifier code-tests: ValueError: problem 'bare', field 'tests' is not there"
            in trace.note
        )
    assert all(len(trace.verdicts) == 1 for trace in orchestrator.traces(tmp_path, "double"))


def test_a_function_that_fails_leaves_a_note_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises for every second problem; the job ends well, and no trace has a score that nobody
    gave.
    """
    monkeypatch.chdir(tmp_path)
    Path("checks.py").write_text("def score(problem, trace):\n    return {'a': 0.25}[problem.id]\n")
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 2}),
        domain="number",
        verifiers=(PluginSpec("function", {"function": "checks.py:score"}),),
    )
    rows: list[dict[str, Any]] = [{"id": "a", "prompt": "A?"}, {"id": "b", "prompt": "B?"}]
    results = orchestrator.run(
        rows, plan, Execution(engine=PluginSpec("fake")), out=tmp_path / "job"
    )
    assert [result.error for result in results] == ["", ""]
    assert [t.verdicts[0].score for t in orchestrator.traces(tmp_path / "job", "a")] == [0.25, 0.25]
    for trace in orchestrator.traces(tmp_path / "job", "b"):
        assert trace.verdicts == ()
        assert "verifier function: raised KeyError: 'b'" in trace.note


def test_a_wrong_function_is_refused_with_the_plan(tmp_path: Path) -> None:
    """Named in the plan's file: the message says which key, and nothing has started."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[verifiers]]\nname = "function"\nfunction = "no_checks.py:score"\n')
    with pytest.raises(PlanError, match=r"plan\.toml: verifier 'function': .*there is no file"):
        load_plan(plan)
