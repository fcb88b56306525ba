"""All generated pages of the site, and the navigation with their places filled.

The one rule: no mkdocs is needed here, so that tests check pages and navigation without it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from website import links, methods, notebooks, reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = ("methods/", "notebooks/")  # folders of docs from which pages are made


@dataclass(frozen=True, slots=True)
class GeneratedPage:
    """A page that is not a file of docs; its links are relative to `origin`, from the root."""

    path: str
    markdown: str
    origin: str = "docs"


def generated() -> Iterator[GeneratedPage]:
    """Yield every generated page."""
    for entry in methods.entries():
        yield GeneratedPage(entry.path, methods.page(entry), "docs/methods")
    yield GeneratedPage("methods/index.md", methods.index(), "docs/methods")
    yield GeneratedPage("map.md", methods.survey_map())
    for path, markdown in [*reference.command_pages(), *reference.module_pages()]:
        yield GeneratedPage(path, markdown, str(Path("docs", path).parent))
    for file in sorted((DOCS / "notebooks").glob("*.ipynb")):
        text = notebooks.markdown(json.loads(file.read_text(encoding="utf-8")))
        yield GeneratedPage(f"notebooks/{file.stem}.md", text, "docs/notebooks")
    for source, path in links.OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        yield GeneratedPage(path, text, str(Path(source).parent))


def site_links(markdown: str, origin: str, page: str, attached: set[str]) -> str:
    """Return a page with the links of the site; adds the other files it links to to `attached`."""

    def attach(source: str) -> str | None:
        if (ROOT / source).is_dir():
            return None
        attached.add(source)
        return f"files/{source}"

    places = links.Places(_methods(), _title, attach)
    return links.rewritten(markdown, origin, page, places)


@functools.cache
def _methods() -> dict[tuple[str, str], str]:
    return {(f"docs/methods/{e.kind}.md", methods.slug(e.name)): e.path for e in methods.entries()}


@functools.cache
def _title(page: str) -> str:
    """Return the title of a page that a person has written; of another, its path."""
    outside = [source for source, path in links.OUTSIDE.items() if path == page]
    source = ROOT / outside[0] if outside else DOCS / page
    if not source.is_file():
        return page.removesuffix("/index.md").capitalize()
    title = re.search(r"^# (.*)$", source.read_text(encoding="utf-8"), re.MULTILINE)
    return title[1] if title else page


def filled(nav: Sequence[Any], paths: Sequence[str]) -> Iterator[Any]:
    """Yield a navigation in which a folder ("methods/strategies/") is replaced by its pages.

    A folder without pages leaves no trace; neither does a section that is empty then.
    """
    for item in nav:
        if isinstance(item, dict):
            [(title, value)] = item.items()
            if isinstance(value, str) and value.endswith("/"):
                inside = _folder(value, paths)
            elif isinstance(value, list):
                inside = [*filled(value, paths)]
            else:
                inside = value
            if inside:
                yield {title: inside}
        elif item.endswith("/"):
            yield from _folder(item, paths)
        else:
            yield item


def _folder(folder: str, paths: Sequence[str]) -> list[Any]:
    """Return the pages of a folder; strategies by their kind."""
    found = [p for p in paths if p.startswith(folder) and p.endswith(".md")]
    if folder != "methods/strategies/":
        return found
    kinds: dict[str, list[str]] = {}
    for entry in methods.entries():
        if entry.path in found:
            kinds.setdefault(entry.kind.capitalize(), []).append(entry.path)
    return [{kind: inside} for kind, inside in kinds.items()]


def listed(nav: Sequence[Any]) -> Iterator[str]:
    """Yield the paths of a filled navigation."""
    for item in nav:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        if isinstance(value, str):
            yield value
        else:
            yield from listed(value)
