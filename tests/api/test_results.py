"""What scripts and notebooks see: accuracy, tables, progress, and calls within an event loop."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import Execution, Plan, PlanError, run, solve
from orchestrator.api.progress import counts, progress_display
from orchestrator.core.votes import AttemptState
from orchestrator.runtime.api import blocking
from orchestrator.runtime.progress import Progress

FAKE = Execution(engine="fake")
PLAN = Plan(strategy={"name": "consistency", "n": 2})
FIVE = "Reply with \\boxed{5}."


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "a", "prompt": "1 + 1?"}, {"id": "b", "prompt": "2 + 2?"}]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "sums.jsonl"


def answers(results: orchestrator.Results) -> dict[str, str]:
    return {r.problem_id: r.answer.text if r.answer else "" for r in results}


def test_accuracy_is_that_of_eval(file: Path) -> None:
    """Of results and of their directory, with references from anywhere."""
    results = run(file, PLAN, FAKE, out="job")
    given = answers(results)
    one_wrong = {"a": given["a"], "b": "-1"}
    Path("answers.jsonl").write_text(
        "".join(json.dumps({"id": id, "answer": answer}) + "\n" for id, answer in one_wrong.items())
    )
    for job in (results, "job", Path("job")):
        for references in (one_wrong, "answers.jsonl", Path("answers.jsonl")):
            estimate = orchestrator.accuracy(job, references)
            assert (estimate.value, estimate.n) == (0.5, 2)
            assert estimate.low is not None
    assert orchestrator.accuracy(results, {"a": given["a"]}).n == 1


def test_accuracy_takes_the_references_that_came_with_the_problems(file: Path) -> None:
    """From the file that was run, from its job, and from rows."""
    given = answers(run(file, PLAN, FAKE))
    rows = [json.loads(line) | {"answer": "-1"} for line in file.read_text().splitlines()]
    rows[0]["answer"] = [given["a"], "7"]
    assert orchestrator.accuracy(run(rows, PLAN, FAKE)).value == 0.5
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert orchestrator.accuracy(run(file, PLAN, FAKE, out="job")).value == 0.5
    assert orchestrator.accuracy("job").value == 0.5


def test_accuracy_without_a_reference_names_the_remedy(file: Path) -> None:
    with pytest.raises(PlanError, match="none of the problems has a reference"):
        orchestrator.accuracy(run(file, PLAN, FAKE))
    with pytest.raises(PlanError, match="none of the problems has a reference"):
        orchestrator.accuracy(run(["1 + 1?"], PLAN, FAKE), {"z": 1})
    with pytest.raises(PlanError, match="cannot be read"):
        orchestrator.accuracy(run(["1 + 1?"], Plan(domain="number"), FAKE), {"1": "a dozen"})


def test_results_are_a_table_in_a_notebook_and_texts_are_no_markup() -> None:
    """A model's text, a question or an id must not run as a script in a notebook."""
    evil = "<script>alert(1)</script>"
    results = run([{"id": evil, "prompt": evil}], PLAN, FAKE)
    html = results._repr_html_()
    assert html.startswith("<table ")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 2
    assert results == list(results)


def test_a_solution_shows_its_votes() -> None:
    solution = solve("1 + 1?", PLAN, FAKE)
    html = solution._repr_html_()
    assert str(solution.answer) in html
    assert "2 traces" in html


def test_a_long_table_is_cut_and_says_so() -> None:
    html = run([str(i) for i in range(120)], Plan(strategy={"name": "consistency", "n": 1}), FAKE)
    assert "120 problems" in html._repr_html_()
    assert "the first 100 are shown" in html._repr_html_()
    assert html._repr_html_().count("<tr>") == 101


async def test_everything_works_within_an_event_loop(file: Path) -> None:
    """As in a notebook: the calls that wait, and those to await."""
    results = run(file, PLAN, FAKE, out="job")
    assert orchestrator.accuracy("job", answers(results)).value == 1.0
    assert orchestrator.frames("job").problems.num_rows == 2
    solution = await orchestrator.asolve("1 + 1?", PLAN, FAKE, n=3)
    assert len(solution.traces) == 3
    assert [r.problem_id async for r in orchestrator.arun("1 + 1?", PLAN, FAKE)] == ["1"]
    assert len(solve("1 + 1?", PLAN, FAKE, n=3).traces) == 3


def test_solve_and_asolve_have_one_signature() -> None:
    assert orchestrator.solve.__name__ == "solve"
    assert orchestrator.solve.__wrapped__ is orchestrator.asolve  # type: ignore[attr-defined]


async def test_an_interrupted_cell_ends_the_run() -> None:
    """In a notebook the run is in another thread, which Ctrl-C does not reach."""
    main, ended = threading.main_thread(), []

    async def work() -> None:
        signal.pthread_kill(main.ident, signal.SIGINT)  # type: ignore[arg-type]
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    asyncio_handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a kernel has it
    try:
        with pytest.raises(KeyboardInterrupt):
            blocking(work)
    finally:
        signal.signal(signal.SIGINT, asyncio_handler)
    assert ended == ["cancelled"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it is requested: a log file gets no bars."""
    run(["1 + 1?"], PLAN, FAKE)
    assert capsys.readouterr() == ("", "")
    run(["1 + 1?"], PLAN, FAKE, progress=True)
    out, err = capsys.readouterr()
    assert (out, "2 traces" in err) == ("", True)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(["1 + 1?"], PLAN, FAKE)
    assert "1/1" in terminal.getvalue()
    assert "2 traces" in terminal.getvalue()
    shown = terminal.getvalue()
    run(["1 + 1?"], PLAN, FAKE, progress=False)
    assert terminal.getvalue() == shown


def test_progress_in_a_notebook_is_html(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the output of the cell, updated in place; messages of a server are escaped."""
    pictures: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            pictures.append(html)

    def display(html: str, display_id: bool) -> Handle:
        pictures.append(html)
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})
    modules: dict[str, Any] = {
        "IPython": types.SimpleNamespace(get_ipython=shell),
        "IPython.display": types.SimpleNamespace(HTML=str, display=display),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with progress_display(None, 3) as show:
        progress = Progress(n_problems=3, n_done=2)
        progress.attempts[AttemptState.FAILED] += 1
        progress.last_error = "<b>503</b>"
        show(progress)
    assert "starting the engine" in pictures[0]
    assert "2/3 problems" in pictures[-1]
    assert "&lt;b&gt;503" in pictures[-1]


def test_the_line_of_progress_has_what_matters() -> None:
    progress = Progress(n_problems=3, n_running=4, n_arrived=7, output_tokens=1_400)
    progress.running_tokens = 100
    assert counts(progress) == "4 running · 7 traces · 1,500 tokens"
