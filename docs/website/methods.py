"""Pages of methods: one for each plugin, their index, and the map of test-time scaling.

A page joins what the code knows (docstring, papers, options, capabilities) with the entry of that
name in docs/methods. The one rule: nothing here is about a single plugin. Links of the returned
pages are relative to docs/methods; `links` rewrites them.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from orchestrator.cli.view import plugins as view
from orchestrator.plan import registry
from orchestrator.plan.keys import FieldInfo
from website.text import code_span, prose

FOLDER = Path(__file__).parents[1] / "methods"
ORIGIN = "methods"
KINDS = {  # the files of docs/methods, in the order of the index, with the group of their plugins
    "sampling": "strategies",
    "pruning": "strategies",
    "thinking": "strategies",
    "revision": "strategies",
    "search": "strategies",
    "composition": "strategies",
    "checking": "strategies",
    "selectors": "selectors",
    "verifiers": "verifiers",
    "similarity": "similarity",
    "domains": "domains",
    "engines": "engines",
}
MAPPED = ("strategies", "selectors", "verifiers")  # groups that have a place on the map
HEADINGS = {
    "When": "When to take it",
    "Source": "Source",
    "Needs": "What it needs",
    "Defaults": "Defaults",
    "Risk": "What it promises",
    "Cost": "What it costs",
    "Measured": "Measured",
    "Differs": "Where it differs",
    "Not checked": "Not checked",
}
OPTIONAL = {"Defaults", "Risk"}
WHAT = ("parallel", "sequential", "hybrid")
HOW = ("stimulation", "verification", "search", "aggregation")
WHERE = ("closed answers", "scored answers", "long thinking", "looped models")
HOW_WELL = ("performance", "efficiency", "controllability")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a method on the map: what is scaled, how, where and how well."""

    what: str
    how: Sequence[str]
    where: str
    how_well: Sequence[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """What docs/methods says of one plugin: the text of each part, by its label."""

    kind: str
    name: str
    parts: dict[str, str]
    units: str = ""  # of the cost: "calls", where it is counted in them

    @property
    def group(self) -> str:
        """The group of plugins."""
        return KINDS[self.kind]

    @property
    def path(self) -> str:
        """The page, relative to docs."""
        return f"methods/{self.group}/{slug(self.name)}.md"

    @property
    def place(self) -> Place:
        """The place on the map; ValueError when it is not written as the others are."""
        what, how, where, well = self.parts["Place"].split(" · ")
        return Place(what, how.split(", "), where, well.split(", "))


def slug(name: str) -> str:
    """Return the file name of a plugin, which is also the anchor of its entry."""
    return re.sub(r"[^\w-]", "", name)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Return the entries of docs/methods, file by file."""
    return tuple(entry for kind in KINDS for entry in _entries(kind))


def _entries(kind: str) -> Iterator[Entry]:
    text = (FOLDER / f"{kind}.md").read_text(encoding="utf-8")
    for title, body in re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE):
        items = re.findall(
            r"^- \*\*(\w+(?: \w+)*)\.\*\* (.*\n?(?:(?!- \*\*).*\n?)*)", body, re.MULTILINE
        )
        labels = [label for label, _ in items]
        parts = {label.removesuffix(" in calls"): _dedented(item) for label, item in items}
        yield Entry(kind, title, parts, "calls" if "Cost in calls" in labels else "")


def _dedented(item: str) -> str:
    first, _, rest = item.partition("\n")
    return f"{first}\n{dedent(rest)}".strip()


def page(entry: Entry) -> str:
    """Return the page of a method."""
    cls = registry.plugin_class(entry.group, entry.name)
    head, _, more = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    papers = [f"[{p}](https://arxiv.org/abs/{p.split()[1]})" for p in view.papers(cls)]
    kind = registry.singular(entry.group)
    purpose = f" · {entry.kind}" if entry.group == "strategies" else ""
    sections = [
        f"# {entry.name}",
        " · ".join([f"*{kind.capitalize()}{purpose}*", *papers]),
        f"**{' '.join(head.split())}**",
        more,
        f"In a plan:\n\n```toml\n{example(entry)}```",
    ]
    for label, heading in HEADINGS.items():
        if label in entry.parts:
            sections.append(f"## {heading}\n\n{entry.parts[label]}")
    needs = ", ".join(f"`{need}`" for need in view.capabilities(cls))
    sections.append(f"## Options\n\n{options_table(registry.options(entry.group, entry.name))}")
    code = f"`{cls.__module__.replace('.', '/')}.py`"
    sections.append(f"The code: {code}." + (f" Engine capabilities: {needs}." if needs else ""))
    return "\n\n".join(filter(None, sections)) + "\n"


def options_table(options: Sequence[FieldInfo]) -> str:
    """Return a table of a plugin's options."""
    if not options:
        return "None."
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for o in options:
        default = "required" if o.default == "(required)" else code_span(o.default)
        limits = f" ({o.range})" if o.range else ""
        meaning = prose(o.description + limits, "../")
        rows.append(f"| `{o.name}` | {code_span(o.type)} | {default} | {meaning} |")
    return "\n".join(rows)


# --- a plan for each method

POOL = '\n[models.prm]\npath = "/models/math-prm-7b"\ntask = "token_classify"\n'
MAIN = '\n[models.main]\npath = "smollm2"\n'
LARGE = '\n[models.large]\npath = "/models/policy-7b"\n'
REQUIRED = {  # the value of a required option: the value, and what a plan has besides
    ("strategies", "verifier"): (
        '"process-reward"',
        'verifiers = [{name = "process-reward", model = "prm"}]\n\n',
        MAIN + POOL,
    ),
    ("strategies", "models"): ('["main", "large"]', "", MAIN + LARGE),
    ("strategies", "large"): ('"large"', "", MAIN + LARGE),
    ("verifiers", "function"): ('"checks.py:score"', "", ""),
    ("verifiers", "model"): ('"prm"', "", MAIN + POOL),
    ("engines", "source"): ('"runs/full"', "", ""),
    ("similarity", "file"): ('"similarity.json"', "", ""),
    ("similarity", "model"): (
        '"embedder"',
        "",
        MAIN + '\n[models.embedder]\npath = "/models/embedder"\ntask = "embed"\n',
    ),
}


def example(entry: Entry) -> str:
    """Return a plan that names a method, with what it requires."""
    options = registry.options(entry.group, entry.name)
    needed = [
        (o.name, *REQUIRED[entry.group, o.name]) for o in options if o.default == "(required)"
    ]
    before = "".join(above for *_, above, _ in needed)
    after = "".join(below for *_, below in needed)
    pairs = [("name", f'"{entry.name}"'), *((name, value) for name, value, *_ in needed)]
    inline = "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
    plain = inline if needed else f'"{entry.name}"'
    match entry.group:
        case "strategies" | "selectors":
            table = "".join(f"{key} = {value}\n" for key, value in pairs)
            body = f"[{registry.singular(entry.group)}]\n{table}"
        case "verifiers":
            body = f"verifiers = [{plain}]\n"
        case "similarity":
            body = f'[strategy]\nname = "deepprune"\nsimilarity = {plain}\n'
        case "domains":
            body = f"domain = {plain}\n"
        case _:
            body = f"[execution]\nengine = {plain}\n"
    return before + body + after


# --- the index and the map


def index() -> str:
    """Return the page that lists all methods."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = text[text.index("Every entry has the same parts:") :]
    lead = (
        "A method is a plugin that a plan names: a strategy, a selector, a verifier, a similarity, "
        "a domain or an engine. Each has a page. [The map](../map.md) shows how the methods of "
        "test-time scaling relate."
    )
    lines = ["# Methods", lead]
    for kind, group in KINDS.items():
        title = f"Strategies: {kind}" if group == "strategies" else _plural(kind)
        rows = "\n".join(
            f"| [`{e.name}`]({kind}.md#{slug(e.name)}) | {prose(_summary(e), '../')} |"
            for e in entries()
            if e.kind == kind
        )
        lines.append(f"## {title}\n\n| | |\n|---|---|\n{rows}")
    return "\n\n".join([*lines, f"## How to read a page\n\n{table}"])


def _plural(kind: str) -> str:
    return {"similarity": "Similarities"}.get(kind, kind.capitalize())


def _summary(entry: Entry) -> str:
    return view.summary_line(registry.plugin_class(entry.group, entry.name))


def survey_map() -> str:
    """Return docs/map.md with its two tables: by what and how, and one row for each method."""
    text = (FOLDER.parent / "map.md").read_text(encoding="utf-8")
    mapped = [entry for entry in entries() if entry.group in MAPPED]
    before, between, after = re.split(r"^\*\(This table.*\)\*$", text, flags=re.MULTILINE)
    return f"{before}{_grid(mapped)}{between}{_rows(mapped)}{after}"


def _link(entry: Entry) -> str:
    return f"[{entry.name}](methods/{entry.kind}.md#{slug(entry.name)})"


def _grid(mapped: Sequence[Entry]) -> str:
    strategies = [entry for entry in mapped if entry.group == "strategies"]
    rows = [f"| | {' | '.join(HOW)} |", f"|---|{'---|' * len(HOW)}"]
    for what in WHAT:
        cells = [
            ", ".join(_link(e) for e in strategies if e.place.what == what and how in e.place.how)
            for how in HOW
        ]
        rows.append(f"| **{what}** | {' | '.join(cells)} |")
    return "\n".join(rows)


def _rows(mapped: Sequence[Entry]) -> str:
    rows = ["| method | what | how | where | how well |", "|---|---|---|---|---|"]
    for entry in sorted(mapped, key=lambda e: (MAPPED.index(e.group), e.name)):
        place = entry.place
        how, well = ", ".join(place.how), ", ".join(place.how_well)
        kind = registry.singular(entry.group)
        rows.append(f"| {_link(entry)} ({kind}) | {place.what} | {how} | {place.where} | {well} |")
    return "\n".join(rows)
