"""The documentation site: its generated pages, its navigation, its links, and the site itself.

Without mkdocs everything but the last tests runs; `make docs` builds the site, where a warning is
an error.
"""

from __future__ import annotations

import ast
import functools
import html.parser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.plan import registry
from orchestrator.plan.file import load_plan
from website import methods, notebooks, pages

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ENTRIES = methods.entries()


@functools.cache
def site() -> dict[str, str]:
    """Return every page of the site by its path, with the links of the site."""
    sources = {
        str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
        for path in DOCS.rglob("*.md")
        if not str(path.relative_to(DOCS)).startswith(pages.SOURCES)
    }
    attached: set[str] = set()
    found = {
        path: pages.site_links(text, str(Path("docs", path).parent), path, attached)
        for path, text in sources.items()
    }
    for page in pages.generated():
        found[page.path] = pages.site_links(page.markdown, page.origin, page.path, attached)
    return found


def navigation() -> list[str]:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return [*pages.listed([*pages.filled(config["nav"], [*site()])])]


# --- methods


@pytest.mark.parametrize("group", sorted({*methods.KINDS.values()}))
def test_every_plugin_of_ours_has_an_entry_and_no_other_has(group: str) -> None:
    """Without its entry in docs/methods a plugin would have no page."""
    ours = [
        n for n in registry.names(group) if registry.distribution(group, n).startswith("leadline ")
    ]
    assert sorted(e.name for e in ENTRIES if e.group == group) == sorted(ours)


def test_every_entry_has_every_part() -> None:
    wrong = {}
    for entry in ENTRIES:
        needed = {*methods.HEADINGS, *(("Place",) if entry.group in methods.MAPPED else ())}
        if faults := (needed - methods.OPTIONAL) ^ (entry.parts.keys() - methods.OPTIONAL):
            wrong[entry.name] = faults
    assert wrong == {}


def test_every_place_is_on_the_map() -> None:
    """In the words of the survey, and with one row for each strategy, selector and verifier."""
    mapped = [entry for entry in ENTRIES if entry.group in methods.MAPPED]
    for entry in mapped:
        place = entry.place
        assert place.what in methods.WHAT, entry
        assert place.where in methods.WHERE, entry
        assert set(place.how) <= set(methods.HOW), entry
        assert set(place.how_well) <= set(methods.HOW_WELL), entry
    rows = re.findall(r"^\| \[(.+?)\]\(.*?\) \((\w+)\) \|", site()["map.md"], re.MULTILINE)
    assert sorted(rows) == sorted((e.name, registry.singular(e.group)) for e in mapped)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.group}: {e.name}")
def test_the_plan_of_a_method_loads(
    entry: methods.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that its page shows; it names the plugin where a plan does."""
    monkeypatch.chdir(tmp_path)
    Path("checks.py").write_text("def score(problem, trace):\n    return 1.0\n")
    Path("plan.toml").write_text(methods.example(entry))
    flags = {} if entry.group == "engines" else {"execution.engine": "fake"}
    if "similarity.json" in methods.example(entry):  # right, but for the file
        with pytest.raises(PlanError, match="leadline similarity train"):
            load_plan("plan.toml", flags)
        return
    loaded = load_plan("plan.toml", flags)
    plan, engine = loaded.plan, loaded.execution.engine
    named = {
        "strategies": plan.strategy.name,
        "selectors": plan.selector.name,
        "verifiers": plan.verifiers and plan.verifiers[0].name,
        "similarity": str(plan.strategy.options.get("similarity")),
        "domains": plan.domain,
        "engines": engine.name,
    }[entry.group]
    assert entry.name in named


# --- pages, navigation, links


def test_no_page_is_reachable_only_by_search() -> None:
    """Every page has a place in the navigation of mkdocs.yml, and every place has a page."""
    listed = navigation()
    assert sorted(listed) == sorted(site())


def test_commands_and_modules_have_pages() -> None:
    assert {"reference/cli/depth-search.md", "reference/api/orchestrator.md"} <= site().keys()
    run = site()["reference/cli/run.md"]
    assert "`--sampling.temperature NUMBER`" in run
    assert "## Limits" in run, "the sections of the help"


def test_links_of_the_site_lead_somewhere() -> None:
    """To a page and a title of it; links to files outside docs, to a file."""
    broken = []
    for path, text in site().items():
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            place = os.path.normpath(Path(path).parent / file) if file else path
            if place.endswith(".md"):
                there = place in site() and (not anchor or anchor in anchors(site()[place]))
            else:
                outside = ROOT / place.removeprefix("files/")
                there = (DOCS / place).exists() or outside.exists()
            if not there:
                broken.append((path, target))
    assert broken == []


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_a_folder_of_the_navigation_may_be_empty() -> None:
    """It takes the notebooks when there are some."""
    nav = [{"Tutorials": ["a.md", {"Notebooks": "notebooks/"}]}, {"More": ["more/"]}]
    assert [*pages.filled(nav, ["a.md"])] == [{"Tutorials": ["a.md"]}]
    one = ["a.md", "notebooks/one.md"]
    assert [*pages.listed([*pages.filled(nav, one)])] == one


def test_a_notebook_shows_texts_code_and_outputs() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [
                {"output_type": "stream", "text": ["\x1b[1;31mprinted\x1b[0m\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {
                    "output_type": "display_data",
                    "data": {"text/html": "<b>\n\nrich</b>", "text/plain": "poor"},
                },
                {
                    "output_type": "display_data",
                    "data": {"image/png": "AAAA\n", "text/plain": "<Figure>"},
                },
            ],
        },
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    text = notebooks.markdown({"cells": cells})
    assert text == (
        "# Title\ntext\n\n```python\n1 + 1\n```\n\n```text\nprinted\n```\n\n```text\n2\n```\n\n"
        '<div class="output">\n<b>\nrich</b>\n</div>\n\n'
        '<img alt="&lt;Figure&gt;" src="data:image/png;base64,AAAA">\n'
    )


# --- troubleshooting

TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [
    " ".join(message.split()) for message in re.findall(r"^- `([^`]+)`$", TROUBLESHOOTING, re.M)
]


@functools.cache
def templates() -> list[re.Pattern[str]]:
    """Return the longer texts of files that may hold a message, their values as placeholders."""
    words = [message.split() for message in MESSAGES]
    phrases = {" ".join(one[i : i + 3]) for one in words for i in range(len(one) - 2)}
    found = []
    for package in ("orchestrator", "strategies", "verifiers"):
        for file in sorted((ROOT / package).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if not any(phrase in text for phrase in phrases):
                continue  # parsing is what takes time
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.JoinedStr):
                    found.append(pattern_of(node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(pattern_of([node]))
    return [re.compile(pattern) for pattern in found if pattern]


def pattern_of(parts: list[ast.expr]) -> str:
    texts = [p.value if isinstance(p, ast.Constant) else None for p in parts]
    literal = "".join(text for text in texts if isinstance(text, str))
    if len(re.findall(r"\w+", literal)) < 4 or len(literal) < 20:
        return ""
    # backquotes in a message are quotes on the page
    return "".join(
        ".*?" if text is None else re.escape(str(text).replace("`", "'")) for text in texts
    )


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_troubleshooting_is_one_of_the_code(message: str) -> None:
    """A message that changes or goes leaves the page, or the page is wrong."""
    assert any(pattern.fullmatch(message) for pattern in templates())


def test_the_messages_are_found() -> None:
    """Else the test above would check nothing."""
    assert len(MESSAGES) == TROUBLESHOOTING.count("*Cause:*") == TROUBLESHOOTING.count("*Remedy:*")
    assert len(MESSAGES) > 30
    assert not any(
        pattern.fullmatch("there is no key of that sort here") for pattern in templates()
    )


# --- the site itself


class _Links(html.parser.HTMLParser):
    """Collects ids, links to pages, and whatever a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.open_tags: dict[str, list[list[str]]] = {}  # around each element, by its tag
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.open_tags.setdefault(tag, []).append([*self._open])
        if tag in ("li", "table"):
            self._open.append(tag)
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values or (tag == "link" and values.get("rel") != "canonical"):
            self.loads.append(values.get("src") or values.get("href", ""))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Links]:
    """Every page of a site that is built now, without a warning."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed; `make docs` has it")
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for file in folder.rglob("*.html"):
        found[str(file.relative_to(folder))] = parsed = _Links()
        parsed.feed(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_page_of_the_site_is_reached_from_the_first(built: dict[str, _Links]) -> None:
    """By links alone, each of which leads to a page and an anchor of it."""
    reached, queue, broken = {"index.html"}, ["index.html"], []
    while queue:
        page = queue.pop()
        for place, anchor in targets(page, built[page].links):
            if place in built and anchor and anchor not in built[place].ids:
                broken.append((page, f"{place}#{anchor}"))
            if place in built and place not in reached:
                reached.add(place)
                queue.append(place)
    assert broken == []
    assert built.keys() - reached == {"404.html"}


@pytest.mark.slow
def test_lists_nest_as_on_a_forge(built: dict[str, _Links]) -> None:
    """By two spaces: a paragraph that is indented so is of its item."""
    items = built["troubleshooting.html"].open_tags["em"]
    assert items
    assert all("li" in tags for tags in items)


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(built: dict[str, _Links]) -> None:
    """No font, script, style or picture of another host."""
    foreign = {load for page in built.values() for load in page.loads if urlsplit(load).netloc}
    assert foreign == set()


def targets(page: str, links: list[str]) -> Iterator[tuple[str, str]]:
    for link in links:
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            path = unquote(parts.path)
            place = os.path.normpath(Path(page).parent / path) if path else page
            yield place, unquote(parts.fragment)
