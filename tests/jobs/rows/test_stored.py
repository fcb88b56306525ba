"""Lists and mappings on disk behave as those in memory, alone and under a whole job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.main import leadline
from orchestrator.core.values import Message, Problem
from orchestrator.engines.fake.engine import problem_number
from orchestrator.jobs.rows import stored
from orchestrator.jobs.rows.stored import StoredDict, StoredList
from orchestrator.studies import estimates
from orchestrator.studies.estimates import SavedShare


@given(st.lists(st.text()), st.integers(1, 5), st.integers(1, 4))
def test_a_list_on_disk_is_a_list(values: list[str], n_in_memory: int, block: int) -> None:
    before = stored.N_IN_MEMORY, stored._BLOCK, stored._CHUNK
    stored.N_IN_MEMORY, stored._BLOCK, stored._CHUNK = n_in_memory, block, 3
    try:
        kept = StoredList[str](str)
        for value in values:
            kept.append(value)
        assert list(kept) == values
        assert len(kept) == len(values)
        assert [kept[i] for i in range(-len(values), len(values))] == [*values, *values]
        assert list(kept[1:3]) == values[1:3]
        assert list(kept[::2]) == values[::2]
        first, second = iter(kept), iter(kept)
        assert [one for pair in zip(first, second, strict=True) for one in pair] == [
            value for value in values for _ in range(2)
        ]
        with pytest.raises(IndexError):
            kept[len(values)]
    finally:
        stored.N_IN_MEMORY, stored._BLOCK, stored._CHUNK = before


@given(st.dictionaries(st.text(), st.integers()), st.integers(1, 5))
def test_a_mapping_on_disk_is_a_mapping(values: dict[str, int], n_in_memory: int) -> None:
    before, stored.N_IN_MEMORY = stored.N_IN_MEMORY, n_in_memory
    try:
        kept = StoredDict[int](int)
        for key, value in values.items():
            kept[key] = value
        assert list(kept.items()) == list(values.items())
        assert len(kept) == len(values)
        assert all(kept[key] == value for key, value in values.items())
        assert ("no such key" in kept, kept.get("no such key")) == (False, None)
    finally:
        stored.N_IN_MEMORY = before


def test_what_is_small_stays_in_memory() -> None:
    kept, known = StoredList[int](int), StoredDict[int](int)
    kept.append(1)
    known["a"] = 1
    assert (kept.settled(), known.settled()) == ((1,), {"a": 1})


def test_problems_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "N_IN_MEMORY", 1)
    problems = [
        Problem("a", 'line\n"feed"'),
        Problem("b", (Message("user", "x"),), "choice", '{"level":3}'),
    ]
    kept = StoredList[Problem](Problem)
    for problem in problems:
        kept.append(problem)
    assert list(kept) == problems


FAKE = ("--execution.engine", "fake", "--strategy.n", "3", "--domain", "number", "--json")


def outcome(directory: Path, *more: str) -> tuple[object, ...]:
    run = CliRunner().invoke(leadline, ["run", *more, "--out", str(directory), *FAKE])
    assert run.exit_code == 0, run.output
    again = CliRunner().invoke(leadline, ["resume", str(directory), "--json"])
    assert again.exit_code == 0, again.output
    judged = CliRunner().invoke(leadline, ["eval", str(directory), "--json"])
    assert judged.exit_code == 0, judged.output
    results = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    for result in results:
        del result["seconds"], result["usage"]
    reports = [json.loads(text)["report"] for text in (run.stdout, again.stdout)]
    for report in reports:
        del report["wall_seconds"], report["usage"], report["total"]
    return results, reports, json.loads(judged.stdout)["curve"]


@pytest.mark.parametrize("limit", [(), ("--limit", "5")])
def test_a_job_whose_lists_are_on_disk_ends_as_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, ...]
) -> None:
    """Results in order, invalid rows, references that cannot be read, and the accuracy."""
    rows: list[dict[str, object]] = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "answer": problem_number(f"q{i}")}
        for i in range(9)
    ]
    rows[2]["prompt"] = 7
    rows[3]["answer"] = "no number"
    del rows[4]["answer"]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("--problems", str(path), *limit)
    in_memory = outcome(tmp_path / "memory", *command)
    monkeypatch.setattr(stored, "N_IN_MEMORY", 2)
    assert outcome(tmp_path / "disk", *command) == in_memory
    results = in_memory[0]
    assert isinstance(results, list)
    assert [r["status"] for r in results[:3]] == ["answered", "answered", "invalid"]


def test_an_interrupted_job_on_disk_continues_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run ends with the engine, after some of the problems."""
    monkeypatch.setattr(stored, "N_IN_MEMORY", 2)
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"id": "q{i}", "prompt": "?"}}\n' for i in range(30)))
    job = str(tmp_path / "job")
    command = ["run", "--problems", str(path), "--out", job, *FAKE, "--execution.window", "3"]
    ended = CliRunner().invoke(leadline, [*command, "--execution.engine.crash_after", "40"])
    assert ended.exit_code == 1
    done = CliRunner().invoke(leadline, command)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert 0 < summary["n_resumed"] < 30
    ids = [json.loads(line)["id"] for line in Path(job, "results.jsonl").read_text().splitlines()]
    assert ids == [f"q{i}" for i in range(30)]


def test_the_interval_of_many_problems_agrees_with_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the normal distribution takes over, the two differ by less than a twentieth."""
    share = SavedShare()
    for i in range(4000):
        share.add(100 + (i * 7919) % 311, 400 + (i * 104_729) % 97)
    bootstrapped = share.estimate()
    monkeypatch.setattr(estimates, "_N_RESAMPLED", 10)
    normal = share.estimate()
    assert normal.value == pytest.approx(bootstrapped.value, rel=1e-12)
    assert None not in (normal.low, normal.high, bootstrapped.low, bootstrapped.high)
    width = bootstrapped.high - bootstrapped.low  # type: ignore[operator]
    assert normal.low == pytest.approx(bootstrapped.low, abs=width / 20)
    assert normal.high == pytest.approx(bootstrapped.high, abs=width / 20)
