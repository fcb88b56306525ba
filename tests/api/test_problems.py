"""What counts as problems, and what plans may be written like."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import orchestrator
from orchestrator import (
    Execution,
    Model,
    Plan,
    PlanError,
    PluginSpec,
    Problem,
    Sampling,
    Status,
    run,
)
from orchestrator.plan.file import load_plan
from orchestrator.plan.file.recipes import RECIPES
from orchestrator.report.scored import read_scored

FAKE = Execution(engine="fake")
PLAN = Plan(strategy={"name": "consistency", "n": 2})
ROWS = [
    {"id": "a", "prompt": "What is 1 + 1?", "answer": "2"},
    {"id": "b", "prompt": "", "answer": "3"},
    {"id": "c", "prompt": "What is 1 + 2?", "answer": "3", "level": 2},
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "sums.jsonl"


def ids(problems: object, **settings: object) -> list[str]:
    results = run(problems, PLAN, FAKE, **settings)  # type: ignore[arg-type]
    return [result.problem_id for result in results]


@pytest.mark.usefixtures("file")
def test_a_path_or_its_text_is_the_file() -> None:
    """With its invalid rows as results, as on the command line."""
    for given in ("sums.jsonl", Path("sums.jsonl"), orchestrator.read_problems("sums.jsonl")):
        results = run(given, PLAN, FAKE)
        assert [(r.problem_id, r.status) for r in results] == [
            ("a", Status.ANSWERED),
            ("b", Status.INVALID),
            ("c", Status.ANSWERED),
        ]
        assert "sums.jsonl:2" in results[1].error


@pytest.mark.usefixtures("file")
def test_a_folder_a_pattern_or_an_address_is_read_with_its_references() -> None:
    """Once, so it may be gone when the results are read."""
    fsspec = pytest.importorskip("fsspec", reason="the extra `remote` is not installed")
    Path("sets").mkdir()
    Path("sums.jsonl").rename("sets/sums.jsonl")
    fsspec.filesystem("memory").pipe("/api/sums.jsonl", Path("sets/sums.jsonl").read_bytes())
    for given in ("sets", Path("sets"), "sets/*.jsonl", "memory://api/sums.jsonl"):
        results = run(given, PLAN, FAKE)
        statuses = [(r.problem_id, r.status) for r in results]
        assert statuses == [
            ("a", Status.ANSWERED),
            ("b", Status.INVALID),
            ("c", Status.ANSWERED),
        ], given
        assert orchestrator.accuracy(results).n == 2
    with pytest.raises(PlanError, match="memory://api/none"):
        run("memory://api/none.jsonl", PLAN, FAKE)


EXAM = [{"Task": "What is 1 + 1?", "Right": 2}, {"Task": "What is 1 + 2?", "Right": 3}]


def test_columns_map_files_and_rows_with_their_references(file: Path) -> None:
    """Those of the call win over those of a plan file; a column that no row has is named."""
    file.write_text("".join(json.dumps(row) + "\n" for row in EXAM))
    columns = {"prompt": "Task", "answer": "Right"}
    Path("plan.toml").write_text('[columns]\nprompt = "Task"\nanswer = "Wrong"\n')
    for results in (
        run(file, PLAN, FAKE, columns=columns),
        run("sums.jsonl", "plan.toml", FAKE, columns={"answer": "Right"}),
        run(EXAM, PLAN, FAKE, columns=columns),
    ):
        assert [r.status for r in results] == [Status.ANSWERED] * 2
        assert orchestrator.accuracy(results).n == 2
    for given in (file, EXAM):
        with pytest.raises(PlanError, match=r"no column 'Rigth' \(did you mean 'Right'\?\)"):
            run(given, PLAN, FAKE, columns={"prompt": "Task", "answer": "Rigth"})
    with pytest.raises(PlanError, match=r"columns\.promt.*'prompt'"):
        run(file, PLAN, FAKE, columns={"promt": "Task"})


def test_a_recipe_sets_what_the_plan_leaves_at_its_default(file: Path) -> None:
    """From Python as on the command line, for a Plan and for a plan file."""
    rows = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}]
    Path("main").mkdir()
    Path("main/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("plan.toml").write_text('domain = "math"\n')
    own = Plan(strategy={"name": "consistency", "n": 2}, sampling=Sampling(template="{prompt}!"))
    for plan, domain, template in (
        (PLAN, "number", RECIPES["gsm8k"].template),
        (own, "number", "{prompt}!"),
        ("plan.toml", "math", RECIPES["gsm8k"].template),
    ):
        results = run("gsm8k@.", plan, FAKE)
        assert orchestrator.accuracy(results).n == 1
        ran = results.plan
        assert (ran.domain, ran.sampling.template) == (domain, template)
        assert (ran.verifiers, ran.models) == (Plan().verifiers, Plan().models)


def test_a_minus_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps({"id": "a", "prompt": "What is 1 + 1?", "answer": "2"}).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    results = run("-", PLAN, FAKE)
    assert [r.problem_id for r in results] == ["a"]
    assert orchestrator.accuracy(results).n == 1


def test_any_other_text_is_one_question() -> None:
    assert ids("What is 2 + 2?") == ["1"]
    assert ids(["What is 2 + 2?", "What is in data.csv?"]) == ["1", "2"]


def test_one_row_and_one_problem_are_understood() -> None:
    """A mapping alone would be read as its keys."""
    assert ids({"id": "x", "prompt": "What is 2 + 2?"}) == ["x"]
    assert ids(Problem("y", "What is 2 + 2?")) == ["y"]
    assert ids(iter(["p", Problem("y", "q"), {"id": "z", "prompt": "r"}])) == ["1", "y", "z"]


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(PlanError, match=r"no/such\.jsonl"):
        run("no/such.jsonl", PLAN, FAKE)


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        (["", "x"], "problem 1 is an empty text"),
        ([3], "problem 1 is 3"),
        (7, "problems = 7"),
        (["a", {"id": "1", "prompt": "b"}], "two problems have the id '1'"),
        ([{"id": "a"}], "it has neither"),
    ],
)
def test_what_is_no_problem_is_refused_before_anything_starts(
    problems: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=message):
        run(problems, PLAN, FAKE, out=tmp_path / "job")  # type: ignore[arg-type]
    assert not (tmp_path / "job").exists()


def test_read_problems_gives_the_problems_of_a_file(file: Path) -> None:
    """Rows without a domain have the plan's."""
    problems = orchestrator.read_problems(file, Plan(domain="text"))
    assert [(p.id, p.domain) for p in problems] == [("a", "text"), ("c", "text")]
    assert len(problems) == 2
    assert [r.problem_id for r in problems.invalid] == ["b"]
    assert len(orchestrator.read_problems(file, limit=1)) == 1


def test_a_job_of_a_file_is_one_of_the_command_line(file: Path) -> None:
    """So that `leadline show` finds the references, and a job from either is continued."""
    run(file, PLAN, FAKE, out="job")
    job = read_scored("job")
    assert [p.reference for p in job.problems] == ["2", "3", "3"]
    Path("other.jsonl").write_text('{"id": "z", "prompt": "q"}\n')
    with pytest.raises(PlanError, match="was started with the problems of"):
        run("other.jsonl", PLAN, FAKE, out="job")


def test_plugins_and_models_are_written_as_in_plan_files() -> None:
    """The same plan, with the same fingerprint, however it is written."""
    short = Plan(
        models="sounder",
        strategy="adaptive",
        selector={"name": "weighted", "by": "mean_logprob"},
        verifiers="function",
        domains={"number": {"units": "keep"}, "n2": "number"},
    )
    long = Plan(
        models={"main": Model("sounder")},
        strategy=PluginSpec("adaptive"),
        selector=PluginSpec("weighted", {"by": "mean_logprob"}),
        verifiers=(PluginSpec("function"),),
        domains={"number": PluginSpec("number", {"units": "keep"}), "n2": PluginSpec("number")},
    )
    assert short == long
    assert orchestrator.fingerprint(short) == orchestrator.fingerprint(long)
    assert Plan(models={"a": "x", "b": Model("y")}).models == {"a": Model("x"), "b": Model("y")}
    assert Execution(engine="fake") == Execution(engine=PluginSpec("fake"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": 3}, "strategy = 3"),
        ({"strategy": ""}, "strategy = ''"),
        ({"selector": {"by": "x"}}, "selector = "),
        ({"verifiers": [None]}, "verifiers = None"),
        ({"models": {"main": 4}}, r"models\.main = 4"),
        ({"models": {}}, "models = "),
        ({"sampling": {"n": 2}}, "sampling = "),
    ],
)
def test_what_is_no_plan_is_refused_by_its_field(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan(**settings)  # type: ignore[arg-type]


def test_a_plan_file_is_loaded_as_on_the_command_line(tmp_path: Path) -> None:
    """Both tables of it, and its own selector where it names none."""
    plan_file = tmp_path / "plan.toml"
    plan_file.write_text(
        'strategy = {name = "mits", n = 2}\n[execution]\nengine = "fake"\nwindow = 3\n'
    )
    loaded = load_plan(plan_file)
    assert Plan.load(plan_file) == loaded.plan
    assert loaded.plan.selector == PluginSpec("pmi")
    assert Execution.load(str(plan_file)) == loaded.execution
    plan_file.write_text("strategi = 3\n")
    with pytest.raises(PlanError, match=r"plan\.toml: there is no key 'strategi'"):
        Plan.load(plan_file)


def test_run_takes_a_plan_file_with_its_execution(file: Path) -> None:
    Path("plan.toml").write_text(
        'strategy = {name = "consistency", n = 3}\n[execution]\nengine = "fake"\n'
    )
    results = run(file, "plan.toml")
    assert [r.n_traces for r in results] == [3, 0, 3]
    assert len(orchestrator.solve("What is 1 + 1?", "plan.toml", n=2).traces) == 2


def test_a_plan_without_a_selector_votes_as_its_strategy_says() -> None:
    """As on the command line; a selector that is named stays, the default one too."""
    vote = {"name": "scrutinize", "n": 2, "verdicts": 2, "preliminary": 1, "comparisons": 0}
    assert run("1 + 1?", Plan(strategy=vote), FAKE).plan.selector.name == "scrutinized"
    named = run("1 + 1?", Plan(strategy=vote, selector="majority"), FAKE)
    assert named.plan.selector == PluginSpec("majority")
