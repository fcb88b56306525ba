"""Searches, a sweep, a comparison and a replay in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.report.page.document import Document, read_document
from orchestrator.report.page.file import report_file
from tests.report.page.browser import Opened, check_accessible, opened
from tests.report.page.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def document(islands: Path, steps: Path, run: Run, sweep: Path) -> Document:
    """Two searches of the same problems, a sweep, and a replay of recorded attempts."""
    recorded = run("recorded", "--strategy.n", "12")
    strategies = ("--strategy", "consistency n=1,4", "--strategy", "adaptive n=8")
    arguments = [
        "replay",
        str(recorded),
        *strategies,
        "--seeds",
        "10",
        "--processes",
        "1",
        "--json",
    ]
    played = CliRunner().invoke(leadline, arguments)
    assert played.exit_code == 0, played.output
    replay = recorded.parent / "replay.json"
    replay.write_text(played.stdout)
    return read_document([islands, steps, sweep, replay])


@pytest.fixture(scope="module")
def path(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "report.html"
    commands = ["leadline show x"] * len(document.jobs)
    path.write_text(report_file(document, "studies", 5_000_000, commands).text)
    return path


@pytest.fixture(scope="module")
def path_of_sweep(sweep: Path) -> Path:
    assert CliRunner().invoke(leadline, ["report", str(sweep)]).exit_code == 0
    return sweep / "report.html"


@pytest.fixture(scope="module")
def chromium(path: Path, path_of_sweep: Path, chromium: Any) -> Any:
    """No job can run once the browser is open."""
    return chromium


@pytest.fixture
def report(chromium: Any, path: Path) -> Iterator[Opened]:
    one = opened(chromium, path)
    yield one
    one.page.close()
    assert not one.faults


def test_a_search_shows_its_islands_and_its_steps(report: Opened, document: Document) -> None:
    """A node for each solution, in the band of its island; Enter opens the attempt's text."""
    page = report.page
    chosen = document.jobs[0].problems[0]
    report.go(f"/0/problem/{chosen.id}", ".tree svg")
    assert page.locator(".tree .node").count() == len(chosen.tree)
    assert page.locator(".tree .band text").all_text_contents() == ["island 1", "island 2"]
    page.locator(".tree .node").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("ul.attempts > li.open .body")
    grown = next(one for one in document.jobs[1].problems if any(n.parents for n in one.tree))
    report.go(f"/1/problem/{grown.id}", ".tree .edge")
    assert page.locator(".tree .edge").count() == sum(len(n.parents) for n in grown.tree)
    assert "PMI" in page.locator(".tree .node text").first.text_content()


def test_a_cell_of_a_sweep_leads_to_the_problems_behind_it(
    report: Opened, document: Document
) -> None:
    """From the surface to a problem of the deepest effort in two clicks; arrows move in it."""
    [sweep] = document.sweeps
    page = report.page
    report.go("/sweep/0", "table.surface")
    assert page.locator(".heat-cell").count() == len(sweep.surface.settings)
    page.click("[data-cell='1 0']")
    page.wait_for_selector("[data-cell='1 0'][aria-pressed=true]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-cell='1 1'][aria-pressed=true]")
    gains = [
        float(text.removesuffix(" points").replace("−", "-"))
        for text in page.locator("section .rows.tall tbody td:last-child").all_inner_texts()
    ]
    assert len(gains) == len(sweep.efforts[1].chances)
    assert gains == sorted(gains, reverse=True)
    points = page.locator(".scatter a")
    assert points.count() == len(sweep.surface.settings)
    points.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-cell='0 0'][aria-pressed=true]")
    page.click("section .rows.tall tbody th a")
    page.wait_for_selector(".race svg")


def test_a_comparison_names_the_problems_that_changed(report: Opened, document: Document) -> None:
    """A point and a row for each problem of both; a chip keeps those of one kind."""
    [comparison] = document.comparisons
    page = report.page
    report.go("/compare/0", ".scatter svg")
    assert page.locator(".scatter .point").count() == len(comparison.problems)
    lost = sum(one.right == (True, False) for one in comparison.problems)
    gained = sum(one.right == (False, True) for one in comparison.problems)
    assert page.locator("tbody td:text-is('lost')").count() == lost
    page.click(".chip:has-text('gained')")
    report.wait_for_count(".rows.tall tbody tr", gained)
    page.click(".chip:has-text('right in both')")
    page.click(".rows.tall tbody td a >> nth=1")
    page.wait_for_selector("h1")
    report.at("/1/problem/")


def test_a_comparison_leads_to_the_problems_of_a_tag(report: Opened, document: Document) -> None:
    """A row of the table by tag, and a row of a problem, are links into the second job."""
    [comparison] = document.comparisons
    tag = comparison.comparison.tags[0]
    page = report.page
    report.go("/compare/0", ".scatter svg")
    page.click(f"tbody th a:text-is('{tag.tag} = {tag.value}')")
    report.at("/1/problems")
    assert page.locator("label.tag select").input_value() == tag.value
    report.go("/compare/0", ".scatter svg")
    page.click(".rows.tall tbody th a >> nth=0")
    report.at("/1/problem/")


def test_a_replay_shows_its_frontier_with_intervals(report: Opened, document: Document) -> None:
    """A point with an interval for each setting, a row for each, and a line over the best."""
    [replay] = document.replays
    page = report.page
    report.go("/replay/0", ".scatter svg")
    assert page.locator(".scatter .point").count() == len(replay.points)
    assert page.locator(".scatter .point line").count() >= len(replay.points)
    names = page.locator("tbody th").all_inner_texts()
    assert [name.removesuffix(" •") for name in names] == [p.strategy for p in replay.points]
    assert page.locator(".scatter .point.front").count() == sum("•" in name for name in names)


def test_the_only_sweep_of_a_report_is_its_first_page(chromium: Any, path_of_sweep: Path) -> None:
    """What there is to see is seen without a click."""
    one = opened(chromium, path_of_sweep)
    one.page.wait_for_selector("table.surface")
    assert one.page.get_attribute("nav a:text-is('Sweep')", "aria-current") == "page"
    one.page.close()
    assert not one.faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_studies_are_accessible_in_both_themes_and_on_a_narrow_screen(
    chromium: Any, path: Path, document: Document, scheme: str, width: int
) -> None:
    """No violation that axe knows, and nothing wider than the screen."""
    places = [
        ("/", ".figures"),
        (f"/0/problem/{document.jobs[0].problems[0].id}", ".tree svg"),
        ("/compare/0", ".scatter svg"),
        ("/sweep/0", "table.surface"),
        ("/replay/0", ".scatter svg"),
    ]
    check_accessible(chromium, path, scheme, width, places)
