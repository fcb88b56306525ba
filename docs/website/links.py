"""Where links of the sources lead on the site.

Sources link to files, as a forge shows them: to entries of docs/methods, to the README of
benchmarks, to files outside docs. On the site each has another place. Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
OUTSIDE = {  # pages whose source is not in docs, by their path from the root
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "benchmarks.md",
    "orchestrator/plan/shipped/sounder/README.md": "project/sounder.md",
    "orchestrator/plan/shipped/fathom/README.md": "project/fathom.md",
}
INDEX_ANCHORS = {
    "selectors": "selectors",
    "verifiers": "verifiers",
    "similarity": "similarities",
    "domains": "domains",
    "engines": "engines",
}
INSTEAD = {  # files that a page stands for
    "README.md": "index.md",
    "orchestrator/__init__.py": "reference/api/orchestrator.md",
    "docs/methods/README.md": "methods/index.md",
}


@dataclass(frozen=True, slots=True)
class Places:
    """What is where on the site.

    `methods` has the page of a method by its file and anchor. `title` returns the title of a page.
    `attach` is called with a place outside docs that is no page, and returns the path below docs at
    which it is served; of one that it does not serve, only the text of the link remains.
    """

    methods: Mapping[tuple[str, str], str]
    title: Callable[[str], str]
    attach: Callable[[str], str | None]


def rewritten(markdown: str, origin: str, page: str, places: Places) -> str:
    """Return a page with its links as they are on the site.

    `origin` is the folder, from the root, to which the links are relative; `page` the page's path
    below docs. A link that shows a file's name shows the title of its page instead.
    """

    def replaced(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        place = _place(posixpath.normpath(posixpath.join(origin, path)), anchor, places)
        if place is None:
            return text
        file, _, rest = place.partition("#")
        if re.fullmatch(r"[\w./-]+\.md", text):
            text = places.title(file)
        relative = posixpath.relpath(file, posixpath.dirname(page) or ".")
        return f"[{text}]({relative}{'#' + rest if rest else ''})"

    fences = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else LINK.sub(replaced, part) for i, part in enumerate(fences))


def _index_anchor(source: str) -> str:
    """Return the anchor of a file of docs/methods in the index of methods."""
    kind = posixpath.basename(source).removesuffix(".md")
    return INDEX_ANCHORS.get(kind, f"strategies-{kind}")


def _place(source: str, anchor: str, places: Places) -> str | None:
    """Return the path below docs, with its anchor, of a file named by its path from the root."""
    suffix = f"#{anchor}" if anchor else ""
    if source in INSTEAD:
        return INSTEAD[source] + suffix
    if source.startswith("docs/methods/"):
        return places.methods.get((source, anchor)) or f"methods/index.md#{_index_anchor(source)}"
    if source.startswith("docs/notebooks/"):
        return source.removeprefix("docs/").removesuffix(".ipynb") + ".md" + suffix
    if source.startswith("docs/"):
        return source.removeprefix("docs/") + suffix
    if source in OUTSIDE:
        return OUTSIDE[source] + suffix
    return places.attach(source)
