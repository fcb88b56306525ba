"""Problems from elsewhere, and recipes, by the command line: run, resume, show and eval.

The rows of the recipes are our own, in the formats in which the sets are published.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.core.errors import PlanError
from orchestrator.engines.fake.engine import problem_number
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.rows.copy import COPY_FILE
from orchestrator.plan.file import load_plan
from orchestrator.plan.file.recipes import RECIPES
from orchestrator.studies.evaluate import reference_rows
from verifiers.programs import sandbox
from verifiers.programs.code_tests import Statements, read_tests

Run = Callable[..., Result]
FAKE = ("--execution.engine", "fake", "--strategy.n", "3")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return CliRunner().invoke(leadline, list(arguments), input=stdin)

    return run


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def rows_of(n: int) -> list[dict[str, Any]]:
    ids = [f"q{i}" for i in range(n)]
    return [{"key": i, "q": f"What is {i}?", "gold": problem_number(i)} for i in ids]


MAPPED = ("--columns.id", "key", "--columns.prompt", "q", "--columns.answer", "gold")


# Sources


def test_problems_from_standard_input_are_kept_for_resume_show_and_eval(
    cli: Run, tmp_path: Path
) -> None:
    """The input is gone after the run, and so is what it said."""
    text = jsonl(rows_of(4))
    number = ("--domain", "number")
    done = cli("run", "--problems", "-", *MAPPED, *number, *FAKE, stdin=text)
    assert done.exit_code == 0, done.output
    job = tmp_path / "runs" / "stdin"
    assert (job / COPY_FILE).is_file()
    for command in ("resume", "eval", "show"):
        again = cli(command, str(job))
        assert again.exit_code == 0, (command, again.output)
    shown = cli("show", str(job), "q2")
    assert "What is q2?" in shown.output
    evaluated = json.loads(cli("eval", str(job), "--json").stdout)
    assert evaluated["selectors"][0]["report"]["accuracy"]["n"] == 4

    same = cli("run", "--problems", "-", *MAPPED, *number, *FAKE, stdin=text)
    assert same.exit_code == 0, same.output
    other = cli("run", "--problems", "-", *MAPPED, *number, *FAKE, stdin=jsonl(rows_of(4)[1:]))
    assert other.exit_code == 2
    assert "the standard input lacks 1 of them" in other.stderr
    assert len(read_problems(job / COPY_FILE, default_domain="math").problems) == 4
    wider = cli("run", "--problems", "-", *MAPPED, *number, *FAKE, stdin=jsonl(rows_of(5)))
    assert wider.exit_code == 0, wider.output
    assert len(read_problems(job / COPY_FILE, default_domain="math").problems) == 5


def test_a_dry_run_of_problems_from_elsewhere_writes_nothing(cli: Run, tmp_path: Path) -> None:
    """It reads them into a folder of its own, which is gone afterwards."""
    done = cli(
        *("run", "--problems", "-", *MAPPED, "--domain", "number", *FAKE, "--dry-run"),
        stdin=jsonl(rows_of(4)),
    )
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "runs").exists()


def test_a_limit_copies_no_more_rows_than_the_job_has(cli: Run, tmp_path: Path) -> None:
    """A later run with a smaller limit keeps the rows of the first."""
    job = tmp_path / "runs" / "stdin"
    for limit, n in (("3", 3), ("2", 3), ("5", 5)):
        done = cli(
            *("run", "--problems", "-", *MAPPED, "--domain", "number", *FAKE, "--limit", limit),
            stdin=jsonl(rows_of(9)),
        )
        assert done.exit_code == 0, done.output
        assert len(read_problems(job / COPY_FILE, default_domain="math").problems) == n


def test_a_job_directory_with_a_copy_can_be_moved(cli: Run, tmp_path: Path) -> None:
    cli("run", "--problems", "-", *MAPPED, "--domain", "number", *FAKE, stdin=jsonl(rows_of(3)))
    (tmp_path / "runs" / "stdin").rename(tmp_path / "elsewhere")
    for command in ("resume", "eval", "show"):
        again = cli(command, "elsewhere")
        assert again.exit_code == 0, (command, again.output)


def test_a_uri_that_changed_adds_rows_and_another_uri_is_refused(cli: Run, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra `remote` is not installed")
    fs = fsspec.filesystem("memory")
    fs.pipe("/grown/p.jsonl", jsonl(rows_of(2)).encode())
    fs.pipe("/other/p.jsonl", jsonl(rows_of(2)[:1]).encode())
    command = ("run", *MAPPED, "--domain", "number", *FAKE, "--problems")
    assert cli(*command, "memory://grown/p.jsonl").exit_code == 0
    fs.pipe("/grown/p.jsonl", jsonl(rows_of(3)).encode())
    assert cli(*command, "memory://grown/p.jsonl").exit_code == 0
    results = (tmp_path / "runs" / "p" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in results] == ["q0", "q1", "q2"]
    refused = cli(*command, "memory://other/p.jsonl")
    assert refused.exit_code == 2
    assert "was started with the problems of memory://grown/p.jsonl" in refused.stderr
    left = {path.name for path in (tmp_path / "runs" / "p").iterdir() if path.name[0] == "."}
    assert left == set()


def test_a_study_over_mapped_columns_keeps_its_copy(cli: Run, tmp_path: Path) -> None:
    """And so does each of its jobs."""
    (tmp_path / "p.csv").write_text(
        "key,q,gold\n" + "".join(f"{','.join(r.values())}\n" for r in rows_of(3))
    )
    done = cli(
        *("sweep", "--problems", "p.csv", *MAPPED, "--domain", "number"),
        *("--execution.engine", "fake", "--widths", "1,2"),
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "p-sweep" / COPY_FILE).is_file()
    (member,) = (tmp_path / "runs" / "p-sweep").glob("*/journal.db")
    assert cli("eval", str(member.parent)).exit_code == 0


def test_nothing_is_made_where_nothing_can_be_read(cli: Run, tmp_path: Path) -> None:
    done = cli("run", "--problems", "no/*.jsonl", *FAKE)
    assert (done.exit_code, "no file matches" in done.stderr) == (2, True)
    assert not (tmp_path / "runs").exists()


# Recipes

QUESTIONS = [
    ("Ann has 3 apples and buys 4. How many has she?", 7),
    ("A box holds 12 pens. How many do 3 boxes hold?", 36),
    ("What is half of 1,000?", 500),
]


def gsm8k(folder: Path) -> None:
    rows = [
        {"question": text, "answer": f"She counts <<1+1=2>>them.\n#### {n:,}"}
        for text, n in QUESTIONS
    ]
    parquet(folder / "main" / "test-00000-of-00001.parquet", rows)
    parquet(folder / "main" / "train-00000-of-00001.parquet", rows[:1])
    parquet(folder / "socratic" / "test-00000-of-00001.parquet", rows[:1])


def math500(folder: Path) -> None:
    folder.mkdir()
    rows = [
        {
            "problem": f"Find $x$ for $2x = {n}$.",
            "solution": f"Halve: $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
            "answer": f"\\frac{{{n}}}{{2}}",
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/algebra/{n}.json",
        }
        for n in (1, 3, 5)
    ]
    (folder / "test.jsonl").write_text(jsonl(rows))


def aime24(folder: Path) -> None:
    rows = [
        {
            "id": i,
            "problem": text,
            "solution": "Count.",
            "answer": f"{n:03d}",
            "url": f"https://example.org/{i}",
            "year": "2024",
        }
        for i, (text, n) in enumerate(QUESTIONS, start=60)
    ]
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def aime25(folder: Path) -> None:
    folder.mkdir()
    rows = [{"question": text, "answer": str(n)} for text, n in QUESTIONS]
    (folder / "aime2025-I.jsonl").write_text(jsonl(rows[:2]))
    (folder / "aime2025-II.jsonl").write_text(jsonl(rows[2:]))
    (folder / "README.md").write_text("---\n---\n")


def gpqa(folder: Path) -> None:
    folder.mkdir()
    columns = [
        *("Record ID", "Question", "Correct Answer"),
        *("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Subdomain"),
    ]
    lines = [
        columns,
        *([f"rec{i}", f"Which, {i}?", "right", "x", "y", "z", "Optics"] for i in range(3)),
    ]
    text = "".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines)
    for name in ("gpqa_diamond.csv", "gpqa_main.csv"):
        (folder / name).write_text(text)


def humaneval(folder: Path) -> None:
    rows = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f'def add_{i}(x):\n    """Return x plus {i}."""\n',
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(candidate):\n    assert candidate(2) == {i + 2}\n",
            "entry_point": f"add_{i}",
        }
        for i in range(3)
    ]
    parquet(folder / "openai_humaneval" / "test-00000-of-00001.parquet", rows)


COPIES = {
    "gsm8k": gsm8k,
    "math500": math500,
    "aime24": aime24,
    "aime25": aime25,
    "gpqa-diamond": gpqa,
    "humaneval": humaneval,
}
REFERENCES = {
    "gsm8k": ["She counts <<1+1=2>>them.\n#### 7", "She counts <<1+1=2>>them.\n#### 36"],
    "math500": ["\\frac{1}{2}", "\\frac{3}{2}"],
    "aime24": ["007", "036"],
    "aime25": ["7", "36"],
}


def test_every_recipe_has_a_copy_here() -> None:
    assert COPIES.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", [name for name in COPIES if name != "humaneval"])
def test_a_recipe_runs_on_a_copy_and_every_reference_is_read(
    cli: Run, tmp_path: Path, name: str
) -> None:
    """One command each."""
    COPIES[name](tmp_path / "set")
    done = cli("run", "--problems", f"{name}@set", "--json", *FAKE)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)["report"]
    assert (report["accuracy"]["n"], report["n_unreadable"], report["n_without_reference"]) == (
        3,
        0,
        0,
    )
    copy = tmp_path / "runs" / name / COPY_FILE
    file = read_problems(copy, default_domain=RECIPES[name].domain)
    assert (len(file.problems), len(file.invalid)) == (3, 0)
    answers = [row.answer for row in reference_rows(copy).values()]
    if name in REFERENCES:
        assert answers[:2] == REFERENCES[name]
    for problem in file.problems:
        assert not {"solution", "answer", "Correct Answer"} & json.loads(problem.tags).keys()


def test_the_choices_of_gpqa_are_in_the_prompt_and_the_reference_is_a_letter(
    cli: Run, tmp_path: Path
) -> None:
    gpqa(tmp_path / "set")
    assert cli("run", "--problems", "gpqa-diamond@set", *FAKE).exit_code == 0
    copy = tmp_path / "runs" / "gpqa-diamond" / COPY_FILE
    references = reference_rows(copy)
    for problem in read_problems(copy, default_domain="choice").problems:
        letter = references[problem.id].answer
        assert f"{letter}) right" in problem.prompt
        assert problem.id.startswith("rec")


def test_humaneval_is_tested_by_its_own_checks(cli: Run, tmp_path: Path) -> None:
    """Its `test` needs the line that calls it; its solution must not be seen."""
    humaneval(tmp_path / "set")
    loaded = load_plan(None, {"problems": "humaneval@set", "execution.engine": "fake"})
    assert loaded.plan.domain == "code"
    assert [spec.name for spec in loaded.plan.verifiers] == ["code-tests"]
    assert (loaded.plan.selector.name, dict(loaded.plan.selector.options)) == (
        "best",
        {"by": "verdict:code-tests"},
    )
    if reason := sandbox.lacking():
        pytest.skip(f"programs cannot be run here: {reason}")
    program = "\n```python\ndef add_1(x):\n    return x + 1\n```\n"
    answers = ("--execution.engine.answers", json.dumps([program]))
    done = cli("run", "--problems", "humaneval@set", "--json", *FAKE, *answers)
    assert done.exit_code == 0, done.output
    copy = tmp_path / "runs" / "humaneval" / COPY_FILE
    problems = read_problems(copy, default_domain="code").problems
    tests = [read_tests(problem, "tests") for problem in problems]
    assert [
        t.source.rstrip().endswith(f"check(add_{i})")
        for i, [t] in enumerate(tests)
        if isinstance(t, Statements)
    ] == [True] * 3
    assert all("canonical_solution" not in problem.tags for problem in problems)
    shown = json.loads(cli("show", "runs/humaneval", "HumanEval/1", "--json").stdout)
    assert [a["verdicts"]["code-tests"] for a in shown["attempts"]] == [1.0] * 3
    again = cli("run", "--problems", "humaneval@set", *FAKE, *answers, "--fresh")
    assert "answers that pass code-tests: 33.3% (6.1% to" in again.stderr  # one of three


def test_a_plan_wins_over_its_recipe(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'problems = "gsm8k"\ndomain = "math"\n[sampling]\ntemplate = "Q: {prompt}"\n'
        '[columns]\nanswer = "other"\n[execution]\nengine = "fake"\n'
    )
    loaded = load_plan(plan)
    assert (loaded.plan.domain, loaded.plan.sampling.template) == ("math", "Q: {prompt}")
    assert (loaded.columns.prompt, loaded.columns.answer) == ("question", "other")
    assert loaded.problems == "hf://openai/gsm8k?name=main&split=test"
    assert (loaded.recipe, loaded.out) == ("gsm8k", Path("runs/plan"))
    with pytest.raises(PlanError, match=r"columns.prmpt.*did you mean"):
        load_plan(None, {"problems": "gsm8k", "columns.prmpt": "x", "execution.engine": "fake"})


def test_the_published_number_of_a_model_is_printed_beside_ours(cli: Run, tmp_path: Path) -> None:
    """Of a local folder of the same name, too; of another model nothing is published."""
    math500(tmp_path / "set")
    command = ("run", "--problems", "math500@set", *FAKE, "--model")
    done = cli(*command, "models/DeepSeek-R1-Distill-Qwen-7B")
    assert "published of deepseek-ai/DeepSeek-R1-Distill-Qwen-7B on math500: 92.8%" in done.stderr
    assert "published of" not in cli(*command, "other", "--out", "runs/other").stderr
