"""docs/questions.md in a real browser: each answer is at most three clicks from the first page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from tests.report.page.browser import Opened, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

_JOB = "a.value:text-is('pruned')"
_PROBLEMS = ".figure:has-text('pruned') >> a:text-is('24 problems')"
_PROBLEM = "tbody a:text-is('rooms8-51')"
# Of each question: the clicks, and what is seen then.
_QUESTIONS = {
    "why this answer": ((_PROBLEMS, _PROBLEM), "won with 3 of 6 votes"),
    "where they part": ((_PROBLEMS, _PROBLEM, ".part >> nth=0"), "they part at their first word"),
    "what was dropped": (
        (_PROBLEMS, _PROBLEM),
        "the attempt that founded its cluster answers for it; it votes with attempt",
    ),
    "would it have changed the vote": (
        (_JOB, "a:has-text('the vote would differ')", "tbody a:text-is('rooms8-12')"),
        "With the last known answers of the dropped attempts the vote would be 8, which is right.",
    ),
    "lost to reading": ((_JOB,), "not right, with attempts that ended without a readable answer"),
    "cost by purpose": ((_JOB,), "attempts that were dropped or cancelled"),
    "what depth helps": (("nav a:text-is('Sweep')", "[data-cell='4 0']"), "19 problems gain more"),
    "the worst tag": ((_JOB,), "tags.hops = 16"),
    "failures and retries": ((_JOB,), "No request was sent again."),
    "what changed": (("nav a:text-is('Comparison')",), "strategy: deepprune"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)
        assert CliRunner().invoke(leadline, ["demo", "--out", str(out)]).exit_code == 0
    return out / "report.html"


@pytest.fixture(scope="module")
def report(path: Path, chromium: Any) -> Iterator[Opened]:
    one = opened(chromium, path)
    yield one
    one.page.close()
    assert not one.faults


@pytest.mark.parametrize("question", _QUESTIONS)
def test_an_answer_is_at_most_three_clicks_away(report: Opened, question: str) -> None:
    """With the recorded jobs of `leadline demo`, from the page that it opens."""
    clicks, seen = _QUESTIONS[question]
    assert len(clicks) <= 3
    report.go("/", ".figures")
    for place in clicks:
        report.page.click(place)
    report.page.locator("main").get_by_text(seen).locator("visible=true").first.wait_for()
