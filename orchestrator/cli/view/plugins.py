"""What `leadline plugins` shows: every plugin by group, or one with its options.

It loads classes and builds nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.core.errors import PluginError
from orchestrator.plan import registry
from orchestrator.plan.keys import FieldInfo


def overview() -> tuple[RenderableType, bool]:
    """Return a table of all plugins, and whether all of them load."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("plugin", "what it does", "from"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "plugin")
    sound = True
    for group in registry.GROUPS:
        table.add_row(Text(group, style="bold"), "", "")
        for name in registry.names(group):
            try:
                what = Text(summary_line(registry.plugin_class(group, name)))
            except PluginError as error:
                sound, what = False, Text(str(error), style="red")
            table.add_row(
                Text(f"  {name}", style="cyan"),
                what,
                Text(registry.distribution(group, name), style="dim"),
            )
        if not registry.names(group):
            table.add_row(Text("  none", style="dim"), "", "")
    return table, sound


def details(name: str) -> RenderableType:
    """Return everything about the plugins of this name, in whatever group.

    PluginError when there is none, with the near match.
    """
    groups = [group for group in registry.GROUPS if name in registry.names(group)]
    if not groups:
        known = sorted({n for group in registry.GROUPS for n in registry.names(group)})
        raise PluginError(
            f"there is no plugin {name!r}{registry.near(name, known)}; `leadline plugins` lists all"
        )
    return Group(*(part for group in groups for part in _one(group, name)))


def _one(group: str, name: str) -> Iterator[RenderableType]:
    cls = registry.plugin_class(group, name)
    yield Text.assemble(
        (name, "bold cyan"),
        (f"  {registry.singular(group)} of {registry.distribution(group, name)}", "dim"),
    )
    yield Text(f"{_flowing(inspect.cleandoc(cls.__doc__ or 'It says nothing about itself.'))}\n")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("option", "type", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    notes = _comments(cls)
    options = registry.options(group, name)
    for option in options:
        table.add_row(
            Text(option.name),
            Text(option.type),
            Text(option.default),
            Text(notes.get(option.name, "")),
        )
    yield table if options else Text("It has no options.\n")
    simple = next((o for o in options if o.type in ("int", "float", "str")), None)
    yield Text(
        f"{_usage(group, name, simple)}\n{_demands(cls)}source: {source(cls)}\n", style="dim"
    )


def summary_line(cls: type) -> str:
    """Return the first paragraph's first sentence of a class's docstring."""
    paragraph = " ".join(
        inspect.cleandoc(cls.__doc__ or "(no description)").split("\n\n")[0].split()
    )
    return re.split(r"(?<=[.!?])\s|:\s", paragraph, maxsplit=1)[0]


def _flowing(text: str) -> str:
    """Return a docstring whose paragraphs are one line each, lists kept as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        p if re.search(r"^\s*([-*]|\s)", p, re.MULTILINE) else " ".join(p.split())
        for p in paragraphs
    )


def source(cls: type) -> str:
    """Return file and line of a class."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}:{cls.__qualname__}"


def _usage(group: str, name: str, option: FieldInfo | None) -> str:
    value = (
        "VALUE"
        if option is None or option.default == "(required)"
        else option.default.strip("'") or '""'
    )
    head = {"strategies": "strategy", "selectors": "selector", "engines": "execution.engine"}.get(
        group
    )
    if group == "similarity":
        return f'in a plan: [strategy] name = "deepprune", judge = "{name}" (each on a line of its own)'
    if head is None:
        own = (
            f'{{ name = "{name}", {option.name} = ... }}'
            if option and option.default == "(required)"
            else f'"{name}"'
        )
        return (
            f"in a plan: [domains.{name}]"
            if group == "domains"
            else f"in a plan: verifiers = [{own}]"
        )
    return f"as flags: --{head} {name}{f' --{head}.{option.name} {value}' if option else ''}{_part_usage(group, name, head)}"


def _part_usage(group: str, name: str, head: str) -> str:
    """Return how a plugin's first part is swapped; "" without parts."""
    part = next(iter(registry.parts(registry.plugin_class(group, name))), "")
    is_list = any(
        o.name == part and o.type.startswith("list of ") for o in registry.options(group, name)
    )
    value = """'["NAME OPTION=VALUE", ...]'""" if is_list else '"NAME OPTION=VALUE"'
    return f" --{head}.{part} {value}" if part else ""


def _demands(cls: type) -> str:
    """Return what a class states of itself without being built: options may change the rest."""
    needs = getattr(cls, "needs", ())
    return (
        f"needs: {', '.join(sorted(needs))}\n"
        if isinstance(needs, frozenset | set | tuple) and needs
        else ""
    )


def _comments(cls: type) -> dict[str, str]:
    """Return the comments that stand on the lines of fields."""
    try:
        lines = inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return {}
    found = (re.match(r"\s+(\w+)\s*:[^#]*#\s*(.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}
