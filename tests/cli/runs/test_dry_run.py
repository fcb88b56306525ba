"""The price of a run before it starts, budgets of a job, and what was spent: by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline

RUN = ("run", "--problems", "p.jsonl", "--domain", "number", "--execution.engine", "fake")
PRICED = ("--prices.main.input", "1", "--prices.main.output", "1000")
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command beside twenty problems, whose right answer is the fake engine's first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    rows = [{"id": f"q{i}", "prompt": f"What is {i}?", "answer": "7"} for i in range(20)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


def rows(directory: str) -> list[dict[str, object]]:
    lines = Path(directory, "results.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def costs(done: Result) -> dict[str, dict[str, float | None]]:
    assert done.exit_code == 0, done.output
    found: dict[str, dict[str, float | None]] = json.loads(done.stdout)["costs"]
    return found


# --- a dry run


def test_a_dry_run_starts_and_writes_nothing(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 problems, 4 attempts of at most 50 tokens: 80 requests, 4,000 tokens, 4 dollars."""
    monkeypatch.setattr("orchestrator.engines.fake.engine.Fake.open", None)
    settings = ("--strategy.n", "4", "--sampling.max_new_tokens", "50")
    done = cli(*RUN, *settings, *PRICED, "--budget.usd", "3", "--dry-run")
    assert done.exit_code == 0, done.output
    for text in ("80", "at most 4,000", "at most $4.00", "budget.usd = 3 ends the job there"):
        assert text in done.stdout
    assert "runs/p" in done.stdout
    assert "journal.db" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_pilot_measures_and_its_problems_are_not_paid_twice(cli: Run) -> None:
    """Problems from all over the file are run; the run continues from them, and a dry run later
    extrapolates without running any.
    """
    done = cli(*RUN, "--strategy.n", "4", *PRICED, "--dry-run", "--pilot", "4", "--json")
    found = costs(done)
    assert (found["n_measured"], found["n_problems"]) == (4, 16)
    assert found["requests"]["value"] == 64.0
    assert found["output_tokens"]["value"] == 16 * 4 * 8
    assert found["usd"]["value"] == pytest.approx(16 * 4 * (3 + 8_000) / 1e6)
    assert [row["id"] for row in rows("runs/p")] == ["q2", "q7", "q12", "q17"]
    again = cli(*RUN, "--strategy.n", "4", *PRICED, "--dry-run", "--json")
    assert costs(again)["requests"] == found["requests"]
    whole = cli(*RUN, "--strategy.n", "4", *PRICED, "--json")
    assert json.loads(whole.stdout)["n_resumed"] == 4
    assert json.loads(whole.stdout)["spent"]["n_requests"] == 80
    cli(*RUN, "--strategy.n", "4", "--out", "runs/fresh")
    assert rows("runs/p") == rows("runs/fresh")


def test_a_pilot_again_sends_nothing(cli: Run) -> None:
    """Its problems are the same, so the same command costs nothing twice."""
    pilot = (*RUN, "--strategy.n", "4", *PRICED, "--dry-run", "--pilot", "4", "--json")
    first = costs(cli(*pilot))
    assert costs(cli(*pilot)) == first
    assert [row["id"] for row in rows("runs/p")] == ["q2", "q7", "q12", "q17"]


def test_a_job_of_another_plan_is_not_measured(cli: Run) -> None:
    cli(*RUN, "--strategy.n", "4")
    done = cli(*RUN, "--strategy.n", "8", "--dry-run")
    assert "runs/p has a job of another plan" in done.stdout
    assert "160" in done.stdout


def test_a_finished_job_costs_nothing_more(cli: Run) -> None:
    cli(*RUN, "--strategy.n", "4")
    assert costs(cli(*RUN, "--strategy.n", "4", "--dry-run", "--json"))["requests"]["value"] == 0.0


def test_a_pilot_alone_is_refused(cli: Run) -> None:
    done = cli(*RUN, "--pilot", "5")
    assert done.exit_code == 2
    assert "give it together with --dry-run" in done.stderr
    assert not Path("runs").exists()


# --- budgets of the job, and what was spent


def test_a_budget_of_money_is_never_exceeded_and_a_larger_one_continues(cli: Run) -> None:
    """An attempt has 8 tokens, of at most 50: 8 dollars in 1,000 tokens. The results of both runs
    are those of one run without a budget.
    """
    settings = ("--strategy.n", "4", "--sampling.max_new_tokens", "50", *PRICED)
    done = cli(*RUN, *settings, "--budget.usd", "0.4", "--json")
    assert done.exit_code == 4, done.output
    summary = json.loads(done.stdout)
    assert summary["ended_by"] == "usd"
    # one more attempt might have cost 5 cents
    assert 0.35 - 0.01 < summary["usd"] <= 0.4
    assert 0 < summary["n_open"] < 20
    assert "budget.usd = 0.4 allows no more requests" in done.stderr
    assert "resume runs/p --budget.usd 0.8" in done.stderr
    more = cli("resume", "runs/p", "--budget.usd", "10", "--json")
    assert more.exit_code == 0, more.output
    assert json.loads(more.stdout)["usd"] == pytest.approx(80 * (3 + 8_000) / 1e6)
    cli(*RUN, *settings, "--out", "runs/whole")
    assert rows("runs/p") == rows("runs/whole")


def test_a_budget_of_gpu_seconds_ends_a_job(cli: Run) -> None:
    """Requests that hang would run for ever; what had finished is kept."""
    engine = ("--execution.engine.gpus", "2", "--execution.engine.hang_rate", "0.5")
    done = cli(*RUN, *engine, "--strategy.n", "4", "--budget.gpu_seconds", "0.4", "--json")
    assert done.exit_code == 4, done.output
    summary = json.loads(done.stdout)
    assert summary["ended_by"] == "gpu_seconds"
    assert summary["spent"]["gpu_seconds"] >= 0.4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--budget.usd", "1"), "the plan has no prices of main"),
        (("--budget.usd", "-1"), "budget.usd = -1: it must be a number, at least 0"),
        (("--prices.mian.input", "1"), "no model 'mian' (did you mean 'main'?)"),
        (("--prices.main.outptu", "1"), "did you mean 'output'?"),
        (("--budget.gpu_seconds", "5"), "uses no GPU"),
        (("--budget.usd", "5", "--prices.gpu_hour", "2"), "uses no GPU"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    cli: Run, settings: tuple[str, ...], message: str
) -> None:
    done = cli(*RUN, *settings)
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_end_of_a_run_says_what_was_spent(cli: Run) -> None:
    done = cli(*RUN, "--strategy.n", "4", *PRICED)
    assert "spent       $0.64" in done.stdout
    assert "240 prompt and 640 output tokens" in done.stdout


# --- labels


def test_a_dropped_vote_is_not_cancelled(cli: Run) -> None:
    """By `deepprune`, whose fake judge holds all prefixes for alike."""
    done = cli(*RUN, "--strategy", "deepprune", "--strategy.n", "4", "--json")
    attempts = json.loads(done.stdout)["report"]["attempts"]
    assert attempts.get("dropped", 0) > 0
    first = rows("runs/p")[0]
    assert first["n_dropped"] == first["attempts"]["dropped"]  # type: ignore[index]  # a row
    assert first["n_cancelled"] == 0


def test_the_closing_table_names_what_cost_accuracy(cli: Run) -> None:
    """Every attempt is cut: the same in the table, in results.jsonl and in `leadline show`."""
    done = cli(*RUN, "--strategy.n", "4", "--sampling.max_new_tokens", "5")
    assert "80 cut off" in done.stdout
    remedy = "of 80 attempts were cut at sampling.max_new_tokens = 5 before they gave an answer"
    assert remedy in done.stdout
    assert "raise sampling.max_new_tokens" in done.stdout
    assert rows("runs/p")[0]["attempts"] == {"cut_off": 4}
    assert remedy in " ".join(cli("show", "runs/p").stdout.split())
    listing = json.loads(cli("show", "runs/p", "--json").stdout)
    assert [loss["cause"] for loss in listing["losses"]] == ["cut off"]


def test_a_vote_that_never_agrees_is_named(cli: Run) -> None:
    answers = json.dumps([str(i) for i in range(1000)])
    done = cli(*RUN, "--strategy.n", "3", "--execution.engine.answers", answers)
    assert "problems have no two attempts with the same answer" in " ".join(done.stdout.split())


def test_an_attempt_in_parts_is_one_attempt(cli: Run) -> None:
    """Continuations and probes are traces; the vote counts attempts."""
    done = cli(*RUN, "--strategy", "dynasor", "--strategy.interval", "3", "--json")
    report = json.loads(done.stdout)["report"]
    n_attempts = sum(report["attempts"].values())
    assert n_attempts == sum(int(str(row["n_attempts"])) for row in rows("runs/p"))
    assert n_attempts < report["n_traces"]
