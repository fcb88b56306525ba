"""References on the command line: how data sets write them, and what no domain can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline

GSM8K = [  # as in its `answer` column, with its calculator annotations
    {
        "id": "g1",
        "prompt": "Ann buys 6 boxes of 3 pens. How many pens?",
        "answer": "Ann has 6*3=<<6*3=18>>18 pens.\n#### 18",
    },
    {
        "id": "g2",
        "prompt": "A coat costs $20 less $2. Price?",
        "answer": "It costs 20-2=$<<20-2=18>>18.\n#### 18",
    },
]
ALWAYS_18 = ("--execution.engine", "fake", "--execution.engine.answers", '["18"]')
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


def write(path: str, rows: list[dict[str, object]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_answers(path: str, *answers: object) -> None:
    """Write problems with these answers, and a plan for them."""
    Path("p.toml").write_text(f'problems = "{path}"\n[budget]\ntraces = 4\n')
    write(path, [{"id": f"q{i}", "prompt": "x", "answer": a} for i, a in enumerate(answers)])


def run_18(cli: Run, path: str, domain: str = "number", *more: str) -> Result:
    return cli("run", "--problems", path, *ALWAYS_18, "--domain", domain, *more)


def accuracy(cli: Run, directory: str, *more: str) -> dict[str, float]:
    done = cli("eval", directory, "--json", *more)
    assert done.exit_code == 0, done.output
    found: dict[str, float] = json.loads(done.stdout)["selectors"][0]["report"]["accuracy"]
    return found


@pytest.mark.parametrize("domain", ["number", "math"])
def test_the_answer_column_of_gsm8k_is_read(cli: Run, domain: str) -> None:
    """A worked solution that ends in `#### 18`: right answers are right, without a word."""
    write("gsm8k.jsonl", GSM8K)
    done = run_18(cli, "gsm8k.jsonl", domain)
    assert done.exit_code == 0, done.output
    assert "100.0%" in done.stdout
    assert "cannot be read" not in done.output
    found = accuracy(cli, "runs/gsm8k")
    assert (found["value"], found["n"]) == (1.0, 2)


def test_any_alias_is_right(cli: Run) -> None:
    write_answers("p.jsonl", ["17", "18.0"], ["17", "19"], 18)
    run_18(cli, "p.jsonl")
    found = accuracy(cli, "runs/p")
    assert (found["value"], found["n"]) == (pytest.approx(2 / 3), 3)


def test_a_run_names_unreadable_references_before_the_engine_starts(cli: Run) -> None:
    """Their problems run and do not count; the report counts them apart."""
    write_answers("p.jsonl", "18", 18, "#### 17", "about a dozen", "")
    done = run_18(cli, "p.jsonl")
    assert done.exit_code == 0, done.output
    note = done.stderr.index("1 of 4 references cannot be read as one number, such as 18")
    assert "row 4: 'about a dozen'" in done.stderr
    assert note < done.stderr.index("starting engine")
    shown = " ".join(done.stdout.split())
    assert "66.7%" in shown
    assert "n = 3; 1 without a reference; 1 with a reference that cannot be read" in shown
    report = json.loads(run_18(cli, "p.jsonl", "number", "--json").stdout)["report"]
    assert (report["n_unreadable"], report["n_without_reference"]) == (1, 1)
    assert report["accuracy"]["n"] == 3


def test_a_run_whose_references_cannot_be_read_is_warned_and_runs(cli: Run) -> None:
    """Its answers are worth having all the same; `eval` has nothing to do and refuses."""
    write_answers("p.jsonl", 0, 1, 2, 3)
    done = run_18(cli, "p.jsonl", "choice", "--quiet")
    assert "4 of 4 references cannot be read as one letter of ABCDEFGHIJ" in done.stderr
    assert "row 1: '0'; row 2: '1'; row 3: '2'; and 1 more" in done.stderr
    assert len(Path("runs/p/results.jsonl").read_text().splitlines()) == 4
    shown = " ".join(run_18(cli, "p.jsonl", "choice").stdout.split())
    assert "accuracy – unknown; 4 with a reference that cannot be read" in shown
    refused = cli("eval", "runs/p")
    assert refused.exit_code == 2
    assert "4 of 4 references cannot be read" in refused.stderr
    assert refused.stdout == ""


def test_eval_counts_unreadable_references_apart(cli: Run) -> None:
    """They come from another file here, and are named in the numbers too."""
    write_answers("p.jsonl", *[""] * 4)
    run_18(cli, "p.jsonl")
    write_answers("a.jsonl", "The answer is 18.", "17", "many", "18")
    done = cli("eval", "runs/p", "--problems", "a.jsonl", "--json")
    assert "note: a.jsonl: 1 of 4 references cannot be read" in done.stderr
    numbers = json.loads(done.stdout)
    report = numbers["selectors"][0]["report"]
    assert (report["n_unreadable"], report["n_without_reference"]) == (1, 0)
    assert (report["accuracy"]["n"], report["accuracy"]["value"]) == (3, pytest.approx(2 / 3))
    assert any("row 3: 'many'" in note for note in numbers["notes"])
    assert numbers["curve"][0]["pass_at_k"]["n"] == 3
    assert "row 3: 'many'" in cli("eval", "runs/p", "--problems", "a.jsonl").stderr


MEASURES = [
    ("sweep", "--problems", "p.jsonl", *ALWAYS_18, "--domain", "number", "--widths", "1,2"),
    ("choose", "p.toml", *ALWAYS_18, "--domain", "number", "--pilot", "4"),
    ("depth", "search", "smollm2", "--problems", "p.jsonl", "--domain", "number"),
]


@pytest.mark.parametrize("command", MEASURES, ids=[command[0] for command in MEASURES])
def test_what_needs_an_accuracy_refuses_references_that_cannot_be_read(
    cli: Run, command: tuple[str, ...]
) -> None:
    """Before an engine starts or a model is loaded."""
    write_answers("p.jsonl", "few", "many", "most", "several")
    done = cli(*command)
    assert done.exit_code == 2, done.output
    assert "4 of 4 references cannot be read as one number" in done.stderr
    assert "starting" not in done.stderr
    assert "loading" not in done.stderr
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize("command", MEASURES[:2], ids=["sweep", "choose"])
def test_what_needs_an_accuracy_leaves_out_what_cannot_be_read(
    cli: Run, command: tuple[str, ...]
) -> None:
    write_answers("p.jsonl", "#### 18", ["17", "18"], "17", "several")
    done = cli(*command, "--json")
    assert done.exit_code == 0, done.output
    note = done.stderr.index("1 of 4 references cannot be read")
    assert note < done.stderr.index("starting engine")
    numbers = json.loads(done.stdout)
    if command[0] == "sweep":
        assert numbers["n_problems"] == 3
        assert numbers["settings"][0]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_a_replay_leaves_out_problems_whose_references_cannot_be_read(cli: Run) -> None:
    write_answers("p.jsonl", "#### 18", "17", "several")
    run_18(cli, "p.jsonl", "number", "--strategy.n", "4")
    done = cli("replay", "runs/p", "--strategy", "consistency n=2", "--json")
    assert done.exit_code == 0, done.output
    assert "1 of 3 references cannot be read" in done.stderr
    [row] = json.loads(done.stdout)
    assert (row["accuracy"]["n"], row["accuracy"]["value"]) == (2, 0.5)


def test_a_replay_of_full_texts_reads_references_by_the_domain(cli: Run) -> None:
    """Recordings of others have their own forms of reference as well."""
    traces = [{"text": "The answer is 18.", "tokens": 5, "prm_score": 0.5}] * 2
    golds = ["#### 18", "Ann has 18 pens"]
    records = [{"problem_id": i, "gold": g, "traces": traces} for i, g in enumerate(golds)]
    Path("pool.json").write_text(json.dumps({"records": records}))
    done = cli("replay", "pool.json", "--strategy", "consistency n=2", "--json")
    assert done.exit_code == 0, done.output
    assert "1 of 2 references cannot be read" in done.stderr
    assert "row 2: 'Ann has 18 pens'" in done.stderr
    [row] = json.loads(done.stdout)
    assert (row["accuracy"]["n"], row["accuracy"]["value"]) == (1, 1.0)
    Path("pool.json").write_text(json.dumps({"records": records[1:]}))
    refused = cli("replay", "pool.json", "--strategy", "consistency n=2")
    assert refused.exit_code == 2
    assert "1 of 1 references cannot be read" in refused.stderr
    assert "none of its references can be read" in refused.stderr


def test_the_engine_replay_needs_no_references(cli: Run) -> None:
    """It serves the recorded texts of every problem."""
    write_answers("p.jsonl", "few", "many")
    run_18(cli, "p.jsonl", "number", "--strategy.n", "2")
    replayed = ("--execution.engine", "replay", "--execution.engine.source", "runs/p")
    done = cli("run", "--problems", "p.jsonl", *replayed, "--domain", "number", "--out", "runs/q")
    assert done.exit_code == 0, done.output
    assert "2 answered" in done.stdout


def test_weights_are_fitted_on_readable_references(cli: Run) -> None:
    write_answers("p.jsonl", "#### 18", "17", "several")
    for name in ("a", "b"):
        run_18(cli, "p.jsonl", "number", "--model", name, "--out", f"runs/{name}")
    done = cli("weights", "runs/a", "runs/b", "--json")
    assert done.exit_code == 0, done.output
    assert "1 of 3 references cannot be read" in done.stderr
    assert json.loads(done.stdout)["fitted"]["n"] == 2
    write_answers("words.jsonl", "few", "many", "most")
    refused = cli("weights", "runs/a", "runs/b", "--problems", "words.jsonl")
    assert refused.exit_code == 2
    assert "3 of 3 references cannot be read" in refused.stderr
