"""`leadline view` in a real browser: pages that change as their job does, and say how current."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.plan import Plan, fingerprint
from orchestrator.core.values import Answer, PluginSpec, Problem, Trace, Usage
from orchestrator.core.votes import conclude
from orchestrator.jobs import journal as events
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from tests.report.live.viewer import viewed
from tests.report.page import browser as pages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PLAN = Plan(strategy=PluginSpec("consistency", {"n": 2}), domain="number")
MARKUP = "<script>window.hit=1</script><img src=x onerror=window.hit=1> $\\frac{1}{2}$ \u202e"


@pytest.fixture(scope="module")
def chromium(sweep: Path, chromium: Any) -> Any:
    """No job can run once the browser is open."""
    return chromium


@contextmanager
def job_in(folder: Path) -> Iterator[Job]:
    """Yield a job of four problems, which other processes see as one that runs."""
    path = folder / "p.jsonl"
    rows = [{"id": f"q{i}", "prompt": f"{i} + 12? {MARKUP}", "answer": "12"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = read_problems(path, default_domain="number")
    with open_job(folder / "job", PLAN, problems.problems, order=problems.order) as job:
        execution = Execution(engine=PluginSpec("fake"))
        write_source(job, PLAN, execution, job_source(path, 0, "auto"))
        yield job


def add(job: Job, number: int, answers: str, *, ends: bool = True) -> None:
    """Let attempts at a problem arrive, each with an answer, and conclude it."""
    problem = next(p for p in job.problems if p.id == f"q{number}")
    before = job.journal.arrived(problem.id)
    new = [trace(len(before) + i, value) for i, value in enumerate(answers.split())]
    opening = [] if before else [events.Opened(problem.id, events.digest(problem))]
    result = [events.Concluded(concluded(problem, [*before, *new]))] if ends else []
    job.journal.append([*opening, *(events.Arrived(problem.id, t, 1.0) for t in new), *result])


def trace(ordinal: int, value: str) -> Trace:
    text = f"{MARKUP} The answer is {value}."
    return Trace(
        ordinal, text, usage=Usage(9, 0, 7, 0, 0.5), model="main", answer=Answer(value, f"={value}")
    )


def concluded(problem: Problem, traces: list[Trace]) -> Any:
    selector: Any = registry.load("selectors", PLAN.selector)
    return conclude(problem, traces, selector, n_planned=2, fingerprint=fingerprint(PLAN))


def test_pages_change_with_their_job_and_say_how_current_they_are(
    chromium: Any, tmp_path: Path
) -> None:
    """The page is loaded once. Nothing that a model wrote runs, as in a report."""
    with ExitStack() as stack:
        with job_in(tmp_path) as job:
            add(job, 0, "12 12")
            add(job, 3, "8", ends=False)
            viewer = stack.enter_context(viewed(tmp_path / "job"))
            one = pages.opened(chromium, viewer.address)
            one.page.evaluate("window.mark = 1")
            see(one, "live: the job runs; 3 problems are open")
            see(one, "100.0%", ".figure:has-text('accuracy') .value")
            add(job, 1, "8 8")
            see(one, "live: the job runs; 2 problems are open")
            see(one, "50.0%", ".figure:has-text('accuracy') .value")
            one.go("/0/problems", "table.problems")
            one.wait_for_count("td:has-text('right')", 1)
            add(job, 2, "12 12")
            one.wait_for_count("td:has-text('right')", 2)
            one.go("/0/problem/q3", "#attempt-0")
            add(job, 3, "12", ends=False)
            one.page.wait_for_selector("#attempt-1")
        see(one, "not running on this machine; 1 problem is open, and leadline resume continues")
        with job_in(tmp_path) as job:
            see(one, "live: the job runs; 1 problem is open")
            add(job, 3, "")
        see(one, "the job has ended: these are its last numbers")
        see(one, "wrong", ".title")
        assert one.page.evaluate("[window.mark, window.hit]") == [1, None]
        assert not one.faults
        viewer.process.kill()
        see(one, "leadline view does not answer; these pages are as of")
        one.page.close()


def see(one: pages.Opened, text: str, place: str = "p.live") -> None:
    """Wait until there is this text."""
    from playwright.sync_api import expect

    expect(one.page.locator(place)).to_contain_text(text, timeout=60_000)


def test_a_sweep_is_served_and_a_cell_leads_to_its_problems(sweep: Path, chromium: Any) -> None:
    with viewed(sweep) as viewer:
        one = pages.opened(chromium, viewer.address)
        one.page.click("[data-cell='1 1']")
        one.at("effort=1")
        one.page.click("tbody a:text-is('q1')")
        one.page.wait_for_selector(".race svg")
        see(one, "q1", "h1")
        one.page.close()
        assert not one.faults
