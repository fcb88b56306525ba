"""Reading what came out, through the command line: show, compare, export and eval by tag."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.engines.fake.engine import problem_number

Run = Callable[..., Result]
FAKE = ("--execution.engine", "fake", "--domain", "number", "-q")
# two thirds of the attempts are wrong, so some problems are and some are not
WRONG_TOO = ("--execution.engine.answers", '["{hash}", "0", "1"]')
# every attempt fails; the run still comes to the last problem, since eleven of twelve may fail
FAILING = ("--execution.engine.failure_rate", "1", "--supervision.max_failed", "0.99")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a directory with twelve problems, in this process; it must end with 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"What is number {i} of the very long list that nobody has written yet?",
            "answer": problem_number(f"q{i}"),
            "level": 1 + i % 2,
        }
        for i in range(12)
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: str, code: int = 0) -> Result:
        done = CliRunner().invoke(leadline, list(arguments))
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def job(cli: Run) -> str:
    """A job of five attempts each, in runs/a."""
    cli("run", "--problems", "p.jsonl", *FAKE, *WRONG_TOO, "--strategy.n", "5", "--out", "runs/a")
    return "runs/a"


def shown(cli: Run, *arguments: str) -> Any:
    return json.loads(cli("show", *arguments, "--json").stdout)


def ids(listing: Any) -> list[str]:
    return [row["id"] for row in listing["problems"]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- two jobs


def test_a_comparison_names_the_settings_that_differ(cli: Run, job: str) -> None:
    """A difference has a cause only if one thing was changed."""
    settings = ("--strategy.n", "3", "--sampling.temperature", "1")
    cli("run", "--problems", "p.jsonl", *FAKE, *WRONG_TOO, *settings, "--out", "runs/hot")
    text = cli("compare", job, "runs/hot").stdout
    lines = [line.strip() for line in text.splitlines()]
    assert lines[2:4] == ["sampling.temperature: 0.7 -> 1.0", "strategy.n: 5 -> 3"]
    assert " -> " not in cli("compare", job, job).stdout


# --- a job that is not finished


def test_an_evaluation_reports_the_problems_without_a_result(cli: Run) -> None:
    """An accuracy of the first problems alone must not pass for that of the file."""
    settings = ("--budget.usd", "0.1", "--prices.main.output", "1000", "--strategy.n", "2")
    limit = ("--sampling.max_new_tokens", "9")
    cli("run", "--problems", "p.jsonl", *FAKE, *settings, *limit, "--out", "runs/u", code=4)
    listing = shown(cli, "runs/u")
    n_open = listing["n_by_outcome"]["open"]
    assert 0 < n_open < 12
    assert f"{n_open} problems without a result yet, not counted" in cli("eval", "runs/u").stdout


# --- show


def test_the_list_agrees_with_the_references_and_with_eval(cli: Run, job: str) -> None:
    """Wrong are exactly the problems whose answer is another one, and the accuracy is eval's."""
    listing = shown(cli, job)
    assert ids(listing) == [f"q{i}" for i in range(12)]
    for row in listing["problems"]:
        is_right = row["answer"] == problem_number(row["id"]) == row["reference"]
        assert (row["outcome"], row["right"]) == (("right", True) if is_right else ("wrong", False))
    wrong = [row["id"] for row in listing["problems"] if row["outcome"] == "wrong"]
    assert 0 < len(wrong) < 12
    assert ids(shown(cli, job, "--wrong")) == wrong
    assert ids(shown(cli, job, "--wrong", "--right")) == ids(listing)
    [own] = json.loads(cli("eval", job, "--json").stdout)["selectors"]
    assert own["report"]["accuracy"] == listing["accuracy"]


@pytest.mark.parametrize(
    ("settings", "filters"),
    [
        (WRONG_TOO, "--wrong"),
        (("--execution.engine.answers", '["{hash}"]'), ""),
        (("--execution.engine.answers", '["none"]'), "--abstained"),
        (FAILING, "--failed"),
    ],
)
def test_the_command_at_the_end_of_a_run_lists_what_is_not_right(
    cli: Run, settings: tuple[str, ...], filters: str
) -> None:
    """Problems that failed or abstained are not among those that were answered wrongly."""
    code = 3 if filters == "--failed" else 0
    done = cli("run", "--problems", "p.jsonl", *FAKE[:-1], *settings, "--out", "runs/b", code=code)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("look closer")]
    command = line.removeprefix("look closer").split()
    assert command == ["leadline", "show", "runs/b", *filters.split()]
    everything = shown(cli, "runs/b")["problems"]
    not_right = [row["id"] for row in everything if row["outcome"] != "right"]
    assert ids(shown(cli, *command[2:])) == (not_right or ids({"problems": everything}))


def test_tied_problems_are_listed(cli: Run, job: str) -> None:
    tied = {row["id"] for row in rows_of(Path(job, "results.jsonl")) if row["tied"]}
    assert tied
    assert set(ids(shown(cli, job, "--tied"))) == tied


@pytest.mark.parametrize(
    ("filter", "settings"),
    [
        ("--failed", FAILING),
        ("--abstained", ("--sampling.max_new_tokens", "5")),
        (
            "--dropped",
            ("--strategy", "deepprune", "--strategy.prefix_tokens", "4", "--strategy.n", "8"),
        ),
    ],
)
def test_a_filter_lists_its_problems_only(cli: Run, filter: str, settings: tuple[str, ...]) -> None:
    """All problems of a job in which this happened to each, and none of one in which it did not."""
    code = 3 if filter == "--failed" else 0
    cli("run", "--problems", "p.jsonl", *FAKE, *settings, "--out", "runs/b", code=code)
    found = ids(shown(cli, "runs/b", filter))
    assert found
    if filter != "--dropped":
        assert len(found) == 12
    cli("run", "--problems", "p.jsonl", *FAKE, "--out", "runs/c")
    assert ids(shown(cli, "runs/c", filter)) == []


def test_a_tag_narrows_the_list(cli: Run, job: str) -> None:
    assert ids(shown(cli, job, "--tag", "level=2")) == [f"q{i}" for i in range(1, 12, 2)]
    assert "the tags are: level" in cli("show", job, "--tag", "lvl=2", code=2).stderr


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_row_of_the_list_is_a_line_that_fits(
    cli: Run, job: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question is cut, so twelve problems are twelve lines on every terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line.rstrip() for line in cli("show", job).stdout.splitlines()]
    assert max(map(len, lines)) <= columns
    assert len([line for line in lines if line.startswith(" q")]) == 12
    assert sum("What is number" in line for line in lines) == (0 if columns < 61 else 12)


def test_long_answers_leave_room_for_the_question(cli: Run) -> None:
    """They are cut before the question is left out, and whole in the view of one problem."""
    long = "a hundred and twenty-three thousand"
    settings = ("--domain", "text", "--execution.engine.answers", json.dumps([long]))
    cli("run", "--problems", "p.jsonl", *FAKE, *settings, "--out", "runs/w")
    text = cli("show", "runs/w").stdout
    assert text.count("What is number") == 12
    assert long not in text
    assert long in cli("show", "runs/w", "q0").stdout


def test_a_long_list_is_cut_and_says_so(cli: Run, job: str) -> None:
    assert "3 of 12; --rows 0 lists all" in cli("show", job, "--rows", "3").stdout
    assert "lists all" not in cli("show", job, "--rows", "0").stdout


def test_one_problem_is_shown_with_all_its_attempts(cli: Run, job: str) -> None:
    """Question, reference, votes, and each attempt with its state, answer and text."""
    text = " ".join(cli("show", job, "q3").stdout.split())
    assert "What is number 3 of the very long list that nobody has written yet?" in text
    assert f"reference {problem_number('q3')}" in text
    traces = orchestrator.traces(job, "q3")
    assert len(traces) == 5
    for trace in traces:
        assert trace.answer is not None
        right = "right" if trace.answer.text == problem_number("q3") else "wrong"
        title = f"attempt {trace.ordinal} · voted · answer {trace.answer.text} · {right}"
        assert title in text
        assert trace.text.strip() in text


def test_thinking_is_folded(cli: Run) -> None:
    """It is counted, and printed on request."""
    answers = '["<think>six times seven</think>42"]'
    settings = ("--execution.engine.answers", answers, "--strategy.n", "1", "--out", "runs/t")
    cli("run", "--problems", "p.jsonl", *FAKE, *settings)
    folded = cli("show", "runs/t", "q0").stdout
    assert "of thinking (--thinking)" in folded
    assert "six times seven" not in folded
    assert "six times seven" in cli("show", "runs/t", "q0", "--thinking").stdout


def test_a_cut_off_or_failed_attempt_says_so(cli: Run) -> None:
    cli("run", "--problems", "p.jsonl", *FAKE, "--sampling.max_new_tokens", "5", "--out", "runs/l")
    assert "cut off before it gave an answer" in cli("show", "runs/l", "q0").stdout
    cli("run", "--problems", "p.jsonl", *FAKE, *FAILING, "--out", "runs/f", code=3)
    assert "fails this trace on purpose" in cli("show", "runs/f", "q0").stdout
    assert "12 failed problems count as wrong" in cli("show", "runs/f").stdout


def test_verdicts_and_probes_are_shown_on_request(cli: Run) -> None:
    scrutinize = ("--strategy", "scrutinize", "--strategy.n", "2", "--out", "runs/s")
    cli("run", "--problems", "p.jsonl", *FAKE, *scrutinize)
    text = cli("show", "runs/s", "q0").stdout
    assert "verify (--others)" in text
    assert "Verdict:" not in text
    assert "Verdict:" in cli("show", "runs/s", "q0", "--others").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "there is no job in nowhere"),
        (("runs/a", "q33"), "has no problem 'q33'; it has 12 problems, such as 'q3'"),
        (("runs/a", "q3", "--wrong"), "--wrong lists problems"),
        (("runs/a", "--thinking"), "give its ID"),
        (("runs/a", "--tag", "level"), "NAME=VALUE"),
        (("runs/a", "--problems", "gone.jsonl"), "there is no file gone.jsonl"),
    ],
)
@pytest.mark.usefixtures("job")
def test_a_mistake_is_an_error_with_its_remedy(
    cli: Run, arguments: tuple[str, ...], message: str
) -> None:
    assert message in cli("show", *arguments, code=2).stderr


@pytest.mark.usefixtures("job")
def test_a_job_whose_problem_file_is_gone_is_shown(cli: Run) -> None:
    """With what the journal has, and a note on what is not known."""
    Path("p.jsonl").rename("elsewhere.jsonl")
    text = cli("show", "runs/a").stdout
    assert "12 answered" in text
    assert "is gone: questions" in " ".join(text.split())
    assert len(ids(shown(cli, "runs/a", "--right", "--problems", "elsewhere.jsonl"))) > 0
    assert "no longer has its text" in cli("show", "runs/a", "q3").stdout


# --- compare


def test_a_comparison_is_paired(cli: Run, job: str) -> None:
    """The difference is the mean over problems; the changed problems are those whose rightness
    differs.
    """
    other = ("--seed", "5", "--strategy.n", "9", "--out", "runs/b")
    cli("run", "--problems", "p.jsonl", *FAKE, *WRONG_TOO, *other)
    compared = json.loads(cli("compare", job, "runs/b", "--json").stdout)
    first, second = (
        {row["id"]: row["right"] for row in shown(cli, where)["problems"]}
        for where in (job, "runs/b")
    )
    changed = {change["id"]: change["is_gain"] for change in compared["changes"]}
    assert changed == {id: second[id] for id in first if first[id] != second[id]}
    assert changed
    difference = compared["difference"]
    assert difference["accuracy"]["value"] * 12 == pytest.approx(
        sum(second.values()) - sum(first.values())
    )
    assert difference["tokens"]["value"] == pytest.approx((9 - 5) * 8)  # tokens of an attempt: 8
    assert [(one["tag"], one["value"], one["difference"]["n"]) for one in compared["tags"]] == [
        ("level", "1", 6),
        ("level", "2", 6),
    ]
    text = cli("compare", job, "runs/b").stdout
    assert all(id in text for id in changed)
    assert max(map(len, text.splitlines())) <= 80


def test_the_same_id_with_another_question_is_not_compared(cli: Run, job: str) -> None:
    """Ids that are positions would pair different questions."""
    rows = rows_of(Path("p.jsonl"))
    for row in rows[1:]:
        row["prompt"] = f"Another question: {row['prompt']}"
    Path("o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli("run", "--problems", "o.jsonl", *FAKE, "--out", "runs/o")
    compared = json.loads(cli("compare", job, "runs/o", "--json").stdout)
    assert compared["difference"]["n"] == 1
    assert "11 ids have different questions in the two jobs" in compared["notes"]
    Path("o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    cli("run", "--problems", "o.jsonl", *FAKE, "--out", "runs/q")
    assert "but not one question" in cli("compare", job, "runs/q", code=2).stderr


# --- eval


def test_eval_breaks_accuracy_down_by_tag(cli: Run, job: str) -> None:
    right = {row["id"]: row["right"] for row in shown(cli, job)["problems"]}
    tags = json.loads(cli("eval", job, "--json").stdout)["tags"]
    assert [(row["tag"], row["value"], row["accuracy"]["n"]) for row in tags] == [
        ("level", "1", 6),
        ("level", "2", 6),
    ]
    even = sum(right[f"q{i}"] for i in range(0, 12, 2))
    assert tags[0]["accuracy"]["value"] == pytest.approx(even / 6)
    assert "level" in cli("eval", job, "--by", "level").stdout
    assert "it has level" in cli("eval", job, "--by", "levle", code=2).stderr


def test_eval_says_which_metric_a_job_lacks(cli: Run, job: str) -> None:
    """The remedy is a job that records it."""
    [note] = json.loads(cli("eval", job, "--selector", "weighted", "--json").stdout)["notes"]
    assert "12 problems could not be voted on" in note
    assert "did not record mean_confidence" in note
    assert "a job run with --selector weighted does" in note


# --- export


def test_every_form_of_table_has_the_same_rows(cli: Run, job: str) -> None:
    """JSONL, CSV, Parquet and data frames: one schema, that of results.jsonl and more."""
    for kind in ("jsonl", "csv", "parquet", "hf"):
        cli("export", job, "--to", kind, "--out", kind)
    problems, attempts = (
        rows_of(Path("jsonl/problems.jsonl")),
        rows_of(Path("jsonl/attempts.jsonl")),
    )
    for exported, result in zip(problems, rows_of(Path(job, "results.jsonl")), strict=True):
        assert {name: exported[name] for name in result} == result
    assert len(attempts) == 12 * 5
    traces = {(id, t.ordinal): t for id in ("q0", "q1") for t in orchestrator.traces(job, id)}
    for row in attempts[:10]:
        trace = traces[row["id"], row["attempt"]]
        assert (row["text"], row["answer"]) == (trace.text, trace.answer and trace.answer.text)
        assert row["right"] is (row["answer"] == problem_number(row["id"]))
    tables = orchestrator.frames(job)
    from pyarrow import parquet

    for name, rows in (("problems", problems), ("attempts", attempts)):
        table = getattr(tables, name).to_pylist()
        assert parquet.read_table(f"parquet/{name}.parquet").to_pylist() == table
        assert parquet.read_table(f"hf/{name}.parquet").to_pylist() == table
        with Path(f"csv/{name}.csv").open(newline="") as file:
            cells = list(csv.DictReader(file))
        for row, of_table, of_csv in zip(rows, table, cells, strict=True):
            for column in ("id", "right", "answer", "prompt", "text", "state"):
                assert row.get(column) == of_table.get(column)
                written = {True: "true", False: "false", None: None}.get(row.get(column), ...)
                assert of_csv.get(column) == (row.get(column) if written is ... else written)
    assert tables.problems.column("tags.level").to_pylist() == [1, 2] * 6


def test_sft_has_the_right_attempts_only(cli: Run, job: str) -> None:
    """As conversations with the plan's template; equal texts count once."""
    template = ("--sampling.template", "Q: {prompt}", "--sampling.system", "Be brief.")
    cli("run", "--problems", "p.jsonl", *FAKE, *WRONG_TOO, *template, "--out", "runs/x")
    for where in (job, "runs/x"):
        cli("export", where, "--to", "sft")
        rows = rows_of(Path(where, "export", "sft.jsonl"))
        assert rows
        texts = [(row["id"], row["messages"][-1]["content"]) for row in rows]
        assert len(set(texts)) == len(texts)
        for id, text in texts:
            assert text.endswith(f"The answer is {problem_number(id)}.")
    assert [m["role"] for m in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert rows[0]["messages"][1]["content"].startswith("Q: What is number")
    cli("export", job, "--to", "sft", "--per-problem", "1", "--out", "few")
    few = [row["id"] for row in rows_of(Path("few/sft.jsonl"))]
    assert len(set(few)) == len(few)


def test_a_preference_is_right_against_wrong(cli: Run, job: str) -> None:
    cli("export", job, "--to", "preference")
    rows = rows_of(Path(job, "export", "preference.jsonl"))
    assert rows
    for row in rows:
        right = f"The answer is {problem_number(row['id'])}."
        assert row["chosen"][0]["content"].endswith(right)
        assert not row["rejected"][0]["content"].endswith(right)


def test_thinking_is_apart_in_training_data(cli: Run) -> None:
    answers = '["<think>hm</think>{hash}"]'
    settings = ("--execution.engine.answers", answers, "--strategy.n", "1", "--out", "runs/t")
    cli("run", "--problems", "p.jsonl", *FAKE, *settings)
    cli("export", "runs/t", "--to", "sft")
    reply = rows_of(Path("runs/t/export/sft.jsonl"))[0]["messages"][-1]
    assert "hm" not in reply["content"]
    assert reply["reasoning_content"].endswith("hm")


def test_batch_output_has_a_line_for_each_problem(cli: Run, job: str) -> None:
    cli("export", job, "--to", "openai-batch")
    lines = rows_of(Path(job, "export", "batch_output.jsonl"))
    assert [line["custom_id"] for line in lines] == [f"q{i}" for i in range(12)]
    answers = [row["answer"] for row in rows_of(Path(job, "results.jsonl"))]
    assert [line["response"]["body"]["leadline"]["answer"] for line in lines] == answers


def test_training_data_needs_references(cli: Run) -> None:
    """Nothing is written, and the remedy is named."""
    rows = [{"id": "q0", "prompt": "What?"}]
    Path("n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli("run", "--problems", "n.jsonl", *FAKE, "--out", "runs/n")
    assert "--problems FILE" in cli("export", "runs/n", "--to", "sft", code=2).stderr
    assert not Path("runs/n/export").exists()
    assert "1 answered" in cli("show", "runs/n").stdout
    assert "accuracy" not in cli("show", "runs/n").stdout
    cli("export", "runs/n", "--to", "sft", "--problems", "p.jsonl")


def test_an_option_without_effect_is_refused(cli: Run, job: str) -> None:
    message = cli("export", job, "--to", "csv", "--per-problem", "1", code=2).stderr
    assert "--per-problem has no meaning with --to csv" in message
