"""A report in a real browser: opening, filters, the race, keys, themes, a narrow screen, safety."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.page.document import Document, JobPages, read_document
from orchestrator.report.page.file import report_file
from orchestrator.report.page.problem import AttemptPage, Group, Node, ProblemPage
from orchestrator.report.page.race import GroupMember, Lane, Mark, Segment
from orchestrator.report.page.texts import Text
from tests.report.page.browser import Opened, check_accessible, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def document(sounding: Path) -> Document:
    return read_document([sounding])


@pytest.fixture(scope="module")
def path(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_file(document, "sounding", 5_000_000, ["leadline show x"]).text)
    return path


@pytest.fixture
def report(chromium: Any, path: Path) -> Iterator[Opened]:
    one = opened(chromium, path)
    yield one
    one.page.close()
    assert not one.faults


def test_filters_and_the_search_narrow_the_table(report: Opened, document: Document) -> None:
    """Numbers in the page are those of the values; the address keeps the filter."""
    table = document.jobs[0].table
    n_wrong = table.outcome.count("wrong")
    page = report.page
    report.go("/0/problems", "table.problems")
    page.click(".chip.wrong")
    report.wait_for_count("tbody tr", n_wrong)
    report.at("outcome=wrong")
    page.fill("input[type=search]", "q1")
    n = sum("q1" in id and o == "wrong" for id, o in zip(table.id, table.outcome, strict=True))
    report.wait_for_count("tbody tr", n)
    page.click("th button:has-text('tokens')")
    report.at("sort=tokens")


def test_a_lane_tells_its_rule_and_opens_its_text(report: Opened, document: Document) -> None:
    """Two clicks from the table to the rule by which an attempt was dropped."""
    chosen = next(
        p for p in document.jobs[0].problems if any(a.state == "dropped" for a in p.attempts)
    )
    dropped = next(a for a in chosen.attempts if a.state == "dropped")
    page = report.page
    report.go(f"/0/problem/{chosen.id}", ".race svg")
    assert page.locator("g.lane").count() == len(chosen.lanes)
    lane = page.locator(f"g.lane[data-attempt='{dropped.attempt}']")
    assert "dropped at token" in lane.get_attribute("aria-label")
    lane.focus()
    assert "dropped at token" in page.inner_text(".story")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#attempt-{dropped.attempt} .body")
    report.at(f"attempt={dropped.attempt}")


def test_keys_move_through_the_table_and_back(report: Opened) -> None:
    """/ searches, arrows move, Enter opens, Esc goes back, ? helps."""
    page = report.page
    report.go("/0/problems", "table.problems")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(".race svg")
    assert page.inner_text("h1") == "q1"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.classList.contains('lane')")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector("table.problems")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_are_accessible_in_both_themes_and_on_a_narrow_screen(
    chromium: Any, path: Path, scheme: str, width: int
) -> None:
    """No violation that axe knows, and nothing wider than the screen."""
    places = [
        ("/0", ".figures"),
        ("/0/problems", "table.problems"),
        ("/0/problem/q1?attempt=0", ".race svg"),
    ]
    check_accessible(chromium, path, scheme, width, places)


_PIECES = (
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg onload=window.hit=1>",
    "</script><script>window.hit=1</script>",
    "<iframe srcdoc='<script>parent.hit=1</script>'>",
    "<a href=javascript:window.hit=1>x</a>",
    "<style>*{display:none}</style>",
    r"$\href{javascript:window.hit=1}{x}$",
    r"$\htmlData{x=1}{y}$",
    r"\(\includegraphics{https://example.org/x.png}\)",
    r"$$\def\a{\a\a}\a$$",
    r"$\color{red;background:url(https://example.org)}x$",
    r"\[\frac{1}{",
    "$$$$$",
    r"\(x^2\) and $5 or $6",
    "&lt;script&gt;&amp;&#0;",
    "\u202eabc\u2066",
    "\ud800",
    "\x00\x1b[31m",
    "]]>-->",
    "{{constructor.constructor('window.hit=1')()}}",
    "שלום",
    "🙂" * 5,
)


def _fuzzed(rng: random.Random) -> str:
    return " ".join(rng.choices(_PIECES, k=rng.randrange(1, 5)))


def _fuzzed_page(page: ProblemPage, attempt: AttemptPage, number: int, n: int) -> ProblemPage:
    rng = random.Random(number)

    def one(ordinal: int) -> AttemptPage:
        text = "x" * 1_000_000 if (number, ordinal) == (0, 0) else _fuzzed(rng)
        return replace(
            attempt,
            attempt=ordinal,
            answer=_fuzzed(rng),
            thinking=Text(_fuzzed(rng)),
            reply=Text(text),
            error=_fuzzed(rng),
            note=_fuzzed(rng),
        )

    return replace(
        page,
        id=f"f{number} {_fuzzed(rng)}",
        question=Text(_fuzzed(rng)),
        reference=_fuzzed(rng),
        answer=_fuzzed(rng),
        error=_fuzzed(rng),
        attempts=tuple(map(one, range(n))),
        **(_fuzzed_search(rng, n) if number % 10 == 0 else {"lanes": ()}),
    )


def _fuzzed_search(rng: random.Random, n: int) -> dict[str, Any]:
    """Return a race, a tree and groups, with texts where a strategy or a model has them."""

    def node(trace: int) -> Node:
        texts = [_fuzzed(rng) for _ in range(4)]
        parents = (trace - 1,) if trace % 2 else ()
        return Node(trace, parents, None, None, texts[0], "stop", 5, *texts[1:])

    def lane(trace: int) -> Lane:
        mark = Mark("dropped", 9, 9, _fuzzed(rng), _fuzzed(rng))
        return Lane(trace, (Segment(trace, 0, 9),), (mark,))

    members = (GroupMember(0, _fuzzed(rng)), GroupMember(1, _fuzzed(rng)))
    return {
        "lanes": tuple(map(lane, range(n))),
        "tree": tuple(map(node, range(n))),
        "groups": (Group(_fuzzed(rng), 0, Text(_fuzzed(rng)), members),),
    }


_VISIT = """async (n) => {
  const bad = 'script, img, iframe, style, object, embed, link, form, [onerror], [onload], ' +
    'a:not([href^="#"])';
  const { id } = await (async () => {
    const stored = atob(document.getElementById('t0').textContent);
    const data = Uint8Array.from(stored, (c) => c.charCodeAt(0));
    const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream('gzip'));
    return JSON.parse(await new Response(stream).text());
  })();
  let found = 0;
  for (const name of id) {
    for (let k = 0; k < n; k++) {
      location.hash = `#/0/problem/${encodeURIComponent(name)}?attempt=${k}`;
      for (let tries = 0; tries < 500 && !document.querySelector(`#attempt-${k} .body`); tries++) {
        await new Promise((done) => setTimeout(done));
      }
      if (!document.querySelector(`#attempt-${k} .body`)) throw new Error(`no ${name} ${k}`);
      if (document.querySelector('main').querySelector(bad) || window.hit) return `${name} ${k}`;
      found++;
    }
  }
  return found;
}"""


@pytest.mark.timeout(1500)
def test_nothing_that_a_model_writes_runs_or_becomes_markup(
    chromium: Any, document: Document, tmp_path: Path
) -> None:
    """10,000 fuzzed outputs, answers, questions and errors are shown, one after another.

    No script runs, no element comes of them, nothing is requested, and the policy is not even
    asked: a violation would be an error on the console.
    """
    n, n_pages = 8, 1_250
    job = document.jobs[0]
    page, attempt = job.problems[0], job.problems[0].attempts[0]
    pages = tuple(_fuzzed_page(page, attempt, i, n) for i in range(n_pages))
    # the ids as the file has them: half of a pair is replaced there, too
    pages = tuple(replace(p, id=p.id.replace("\ud800", "\ufffd")) for p in pages)
    columns = {name: (getattr(job.table, name)[0],) * n_pages for name in job.table.__slots__[:-1]}
    columns |= {"id": tuple(p.id for p in pages), "question": tuple(p.question.text for p in pages)}
    table = replace(job.table, **columns, tags={})
    fuzzed = replace(document, jobs=(JobPages(job.overview, table, pages),))
    path = tmp_path / "fuzzed.html"
    path.write_text(report_file(fuzzed, "</title><script>", 50_000_000, ["x"]).text)
    one = opened(chromium, path)
    assert one.page.evaluate(_VISIT, n) == n * n_pages
    one.go("/0/problems", "table.problems")
    one.page.close()
    assert not one.faults
