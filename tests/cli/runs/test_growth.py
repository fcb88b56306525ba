"""The same command with more: what `leadline run` keeps, refuses and begins beside a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.engines.fake.engine import problem_number

Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run six problems in a directory of their own, with two attempts each by default."""
    monkeypatch.chdir(tmp_path)
    write("p.jsonl", range(6))

    def run(*arguments: str, problems: str = "p.jsonl") -> Result:
        command = ["run", "--problems", problems, "--domain", "number"]
        command += ["--execution.engine", "fake"]
        if "--strategy.n" not in arguments:
            command += ["--strategy.n", "2"]
        return CliRunner().invoke(leadline, [*command, *arguments])

    return run


def write(path: str, numbers: range | list[int], answer: str = "") -> None:
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "answer": answer or problem_number(f"q{i}")}
        for i in numbers
    ]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(directory: str = "runs/p") -> list[dict[str, object]]:
    lines = (Path(directory) / "results.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def said(done: Result) -> str:
    return " ".join(done.stderr.split())


def test_a_larger_n_is_announced_and_taken_up_by_resume(cli: Run) -> None:
    """The files of the job are those of the grown plan, so every other command goes by it."""
    cli()
    grown = cli("--strategy.n", "5")
    assert grown.exit_code == 0, grown.output
    assert "runs/p continues with a changed plan, from the 12 traces that it has:" in grown.stderr
    assert "strategy.n: 2 -> 5" in grown.stderr
    assert {row["n_attempts"] for row in rows()} == {5}
    cli("--strategy.n", "5", "--out", "fresh")
    assert rows() == rows("fresh")
    recorded = json.loads(Path("runs/p/plan.json").read_text())
    assert recorded["plan"]["strategy"]["options"] == {"n": 5}
    assert {row["fingerprint"] for row in rows()} == {recorded["fingerprint"]}
    again = CliRunner().invoke(leadline, ["resume", "runs/p", "--json"])
    assert json.loads(again.stdout)["n_resumed"] == 6
    evaluated = CliRunner().invoke(leadline, ["eval", "runs/p"])
    assert "6 results, 30 traces" in evaluated.stdout


def test_what_cannot_grow_names_the_keys_and_the_remedy(cli: Run) -> None:
    cli()
    before = rows()
    refused = cli("--strategy.n", "4", "--sampling.temperature", "0.9", "--seed", "3")
    assert refused.exit_code == 2
    assert "sampling.temperature: 0.7 -> 0.9 (every text depends on it)" in refused.stderr
    assert "seed: 0 -> 3 (every text depends on it)" in refused.stderr
    assert "strategy.n" not in refused.stderr
    assert "`leadline run --fresh`" in refused.stderr
    smaller = cli("--strategy.n", "1")
    assert smaller.exit_code == 2
    assert "strategy.n: 2 -> 1" in smaller.stderr
    assert "In 6 of 6 problems this would lose finished traces, in 'q0' first" in said(smaller)
    assert rows() == before
    assert cli().exit_code == 0


def test_fresh_begins_beside_what_is_there_and_deletes_nothing(cli: Run) -> None:
    """Each time in another directory; in the job's own, while that has nothing."""
    for directory in ("runs/p", "runs/p-2", "runs/p-3"):
        done = cli("--fresh", "--seed", "3")
        assert done.exit_code == 0, done.output
        assert f"{directory} · 6 problems" in done.stderr
        assert len(rows(directory)) == 6
    assert cli("--seed", "4", "--out", "runs/p-3").exit_code == 2
    continued = cli("--seed", "3", "--out", "runs/p-2", "--json")
    assert json.loads(continued.stdout)["n_resumed"] == 6


def test_a_job_that_never_got_a_trace_does_not_own_its_directory(cli: Run) -> None:
    """A server that cannot be reached, then other problems under another plan."""
    url = ("--execution.engine", "openai", "--execution.engine.base_url", "http://127.0.0.1:9/v1")
    patience = ("--supervision.patience_seconds", "0")
    assert cli(*url, *patience, "--out", "job", "--limit", "1").exit_code == 1
    assert Path("job/journal.db").exists()
    write("other.jsonl", range(3))
    done = cli("--seed", "5", "--out", "job", problems="other.jsonl")
    assert done.exit_code == 0, done.output
    assert len(rows("job")) == 3
    assert cli("--fresh", "--out", "job").exit_code == 0
    assert len(rows("job-2")) == 6


def test_a_smaller_limit_keeps_and_reports_what_is_there(cli: Run) -> None:
    whole = cli("--json")
    for limit in ("2", "6"):
        less = cli("--limit", limit, "--json")
        assert less.exit_code == 0, less.output
        assert json.loads(less.stdout)["report"] == {
            **json.loads(whole.stdout)["report"],
            "wall_seconds": 0.0,
        }
    assert [row["id"] for row in rows()] == [f"q{i}" for i in range(6)]
    evaluated = CliRunner().invoke(leadline, ["eval", "runs/p"])
    assert "6 results, 12 traces" in evaluated.stdout


def test_a_limit_bounds_what_a_run_works_on(cli: Run) -> None:
    """Of six problems two get the larger n; the others keep their results of before."""
    cli("--limit", "4")
    grown = cli("--strategy.n", "3", "--limit", "2", "--json")
    assert grown.exit_code == 0, grown.output
    summary = json.loads(grown.stdout)
    assert (summary["n_open"], summary["n_outdated"]) == (2, 2)
    assert [(row["id"], row["n_attempts"]) for row in rows()] == [
        ("q0", 3),
        ("q1", 3),
        ("q2", 2),
        ("q3", 2),
    ]
    table = cli("--strategy.n", "3", "--limit", "2").stdout
    assert "2 not done yet (2 with the result of the plan before)" in " ".join(table.split())
    mixed = CliRunner().invoke(leadline, ["eval", "runs/p"])
    assert "2 of the results are from before the plan changed" in " ".join(mixed.stdout.split())
    resumed = CliRunner().invoke(leadline, ["resume", "runs/p"])
    assert resumed.exit_code == 0, resumed.output
    assert [row["n_attempts"] for row in rows()] == [3] * 4
    assert "plan changed" not in CliRunner().invoke(leadline, ["eval", "runs/p"]).stdout
    assert cli("--strategy.n", "3").exit_code == 0
    cli("--strategy.n", "3", "--out", "fresh")
    assert rows() == rows("fresh")


def test_rows_may_be_added_moved_and_taken_out(cli: Run) -> None:
    """results.jsonl follows the file; the traces of a row that is gone are kept for its return."""
    write("p.jsonl", [3, 1, 2])
    assert cli().exit_code == 0
    write("p.jsonl", [2, 5, 3])
    done = cli("--json")
    assert json.loads(done.stdout)["n_resumed"] == 2
    assert "1 problem of this job is no longer in the file, 'q1' first" in said(done)
    assert [row["id"] for row in rows()] == ["q2", "q5", "q3"]
    write("p.jsonl", [1, 2, 3, 5])
    back = cli("--json")
    assert json.loads(back.stdout)["n_resumed"] == 4
    cli("--out", "fresh")
    assert rows() == rows("fresh")


def test_another_file_may_continue_a_job_if_it_has_all_of_its_problems(cli: Run) -> None:
    write("few.jsonl", range(2))
    assert cli("--out", "job", problems="few.jsonl").exit_code == 0
    assert json.loads(cli("--out", "job", "--json").stdout)["n_resumed"] == 2
    refused = cli("--out", "job", problems="few.jsonl")
    assert refused.exit_code == 2
    assert "lacks 4 of them" in refused.stderr
    assert "--fresh" in refused.stderr


def test_another_reference_alone_changes_no_answer(cli: Run) -> None:
    """References are read by the evaluation only: nothing runs again."""
    cli()
    before = rows()
    write("p.jsonl", range(6), answer="-7")
    done = cli("--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["n_resumed"], summary["report"]["accuracy"]["value"]) == (6, 0.0)
    assert rows() == before


def test_other_tags_come_out_as_they_are_now(cli: Run) -> None:
    """Tags decide no answer either."""
    cli()
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    Path("p.jsonl").write_text("".join(json.dumps({**row, "level": 1}) + "\n" for row in lines))
    assert cli().exit_code == 0
    assert [row["tags"] for row in rows()] == [{"level": 1}] * 6


def test_another_text_under_the_same_id_is_refused(cli: Run) -> None:
    cli()
    text = Path("p.jsonl").read_text()
    Path("p.jsonl").write_text(text.replace("What is 4?", "What was 4?"))
    refused = cli()
    assert refused.exit_code == 2
    assert "1 problem has another text than when it was started, 'q4' first" in said(refused)
    assert "`leadline run --fresh`" in refused.stderr


def test_a_job_that_has_grown_in_part_says_so(cli: Run) -> None:
    """In a list, a comparison and a dry run: its numbers are of two plans, or leave traces out."""
    cli()
    priced = ("--prices.main.output", "1000", "--sampling.max_new_tokens", "9")
    cli(*priced, "--out", "job")
    ended = cli(*priced, "--strategy.n", "4", "--budget.usd", "0.16", "--out", "job", "--json")
    assert ended.exit_code == 4, ended.output
    n_former = json.loads(ended.stdout)["n_open"]
    assert 0 < n_former < 6
    note = f"{n_former} of the results are from before the plan changed"
    assert note in CliRunner().invoke(leadline, ["show", "job"]).stdout
    assert note in CliRunner().invoke(leadline, ["compare", "runs/p", "job"]).stdout
    dry = cli(*priced, "--strategy.n", "4", "--out", "job", "--dry-run").stdout
    assert "traces of problems that are not done are not subtracted" in dry


def test_a_dry_run_of_a_finished_job_leaves_no_traces_out(cli: Run) -> None:
    cli()
    assert "subtracted" not in cli("--dry-run").stdout
