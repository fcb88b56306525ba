"""The output of `leadline plugins`: every plugin by its purpose, or one with its options.

Plugin classes are loaded but not instantiated. A plugin that does not load is listed with its
error.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.core.errors import PluginError
from orchestrator.plan import registry
from orchestrator.plan.keys import FieldInfo

_OURS = "leadline "  # begins the name of our own distribution with its version


@dataclass(frozen=True, slots=True)
class PluginSummary:
    """One entry of the list of plugins.

    `purpose` is the folder of a built-in strategy or verifier, or else "". `papers` are the sources
    that its documentation cites, as "arXiv NUMBER".
    """

    group: str
    purpose: str
    name: str
    summary: str
    distribution: str
    papers: Sequence[str] = ()
    options: Sequence[FieldInfo] = ()
    error: str = ""


def summaries(name: str | None = None) -> list[PluginSummary]:
    """Return all plugins, or those of one name, in the order in which they are listed.

    PluginError when there is none of that name, with the near match.
    """
    names = [(group, n) for group in registry.GROUPS for n in registry.names(group)]
    matches = [_summary(group, n) for group, n in names if name in (None, n)]
    if not matches and name is not None:
        raise PluginError(
            f"there is no plugin {name!r}{registry.near(name, {n for _, n in names})}; "
            "`leadline plugins` lists all"
        )
    order = registry.GROUPS.index
    return sorted(matches, key=lambda s: (order(s.group), not s.purpose, s.purpose, s.name))


def _summary(group: str, name: str) -> PluginSummary:
    distribution = registry.distribution(group, name)
    try:
        cls = registry.plugin_class(group, name)
    except PluginError as error:
        return PluginSummary(group, "", name, "", distribution, error=str(error))
    folders = cls.__module__.split(".")
    purpose = folders[1] if folders[0] == group and distribution.startswith(_OURS) else ""
    return PluginSummary(
        group,
        purpose,
        name,
        summary_line(cls),
        distribution,
        papers(cls),
        registry.options(group, name),
    )


def overview(plugins: Sequence[PluginSummary]) -> RenderableType:
    """Return plugins as a list, by group and purpose."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    heading = ""
    for plugin in plugins:
        title = plugin.group + (f": {plugin.purpose}" if plugin.purpose else "")
        if title != heading:
            table.add_row("\n" * bool(heading) + title, style="bold")
            heading = title
        text = Text(plugin.error, style="red") if plugin.error else Text(plugin.summary)
        if not plugin.distribution.startswith(_OURS):
            text.append(f" ({plugin.distribution})", style="dim")
        elif plugin.papers:
            text.append(f" ({plugin.papers[0]})", style="dim")
        table.add_row(Text(f"  {plugin.name}", style="cyan"), text)
    return table


def details(name: str) -> RenderableType:
    """Return everything about the plugins of this name, in whatever group.

    PluginError when there is none, with the near match, and when one does not load.
    """
    return Group(*(part for plugin in summaries(name) for part in _details(plugin)))


def _details(plugin: PluginSummary) -> Iterator[RenderableType]:
    cls = registry.plugin_class(plugin.group, plugin.name)
    kind = registry.singular(plugin.group)
    yield Text.assemble((plugin.name, "bold cyan"), (f"  {kind} of {plugin.distribution}", "dim"))
    yield Text(f"{_reflow(inspect.cleandoc(cls.__doc__ or '(no description)'))}\n")
    yield Text("Options:" if plugin.options else "No options.")
    for option in plugin.options:
        default = "required" if option.default == "(required)" else f"default {option.default}"
        facts = ", ".join(filter(None, (option.type, default, option.range)))
        yield Padding(Text.assemble((option.name, "cyan"), (f"  {facts}", "dim")), (0, 0, 0, 2))
        if option.description:
            yield Padding(Text(option.description), (0, 0, 0, 6))
    needs = capabilities(cls)
    needed = f"required engine capabilities: {', '.join(needs)}\n" if needs else ""
    cited = f"papers: {', '.join(plugin.papers)}\n" if plugin.papers else ""
    yield Text(f"\n{_usage(plugin)}\n{needed}{cited}source: {source(cls)}\n", style="dim")


def capabilities(cls: type) -> list[str]:
    """Return the engine capabilities that a class always needs; options may add others."""
    needs = getattr(cls, "needs", ())
    return sorted(needs) if isinstance(needs, frozenset | set | tuple) else []


def summary_line(cls: type) -> str:
    """Return the first line of a class's docstring, or its first sentence if that is longer."""
    first, *more = inspect.cleandoc(cls.__doc__ or "(no description)").split("\n")
    while more and more[0] and not first.endswith((".", "!", "?")):
        first += f" {more.pop(0).strip()}"
    return first


def papers(cls: type) -> list[str]:
    """Return the papers in a class's docstring and the head of its module's, in order."""
    module = (sys.modules[cls.__module__].__doc__ or "").split("\n\n")[:2]
    numbers = re.findall(r"arXiv\s+(\d{4}\.\d{5})", "\n".join([cls.__doc__ or "", *module]))
    return [f"arXiv {number}" for number in dict.fromkeys(numbers)]


def _reflow(text: str) -> str:
    """Return a docstring whose paragraphs are one line each, lists kept as they are."""
    return "\n\n".join(
        p if re.search(r"^\s*([-*]|\s)", p, re.MULTILINE) else " ".join(p.split())
        for p in text.split("\n\n")
    )


def source(cls: type) -> str:
    """Return file and line of a class."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}:{cls.__qualname__}"


def _usage(plugin: PluginSummary) -> str:
    """Return how a plan names a plugin and sets its first plain option and its first part."""
    name = plugin.name
    if plugin.group == "similarity":
        return f'in a plan: strategy = {{name = "deepprune", similarity = "{name}"}}'
    if plugin.group == "domains":
        return f"in a plan: [domains.{name}]"
    if plugin.group == "verifiers":
        required = [f"{o.name} = ..." for o in plugin.options if o.default == "(required)"]
        table = ", ".join([f'name = "{name}"', *required])
        entry = f"{{{table}}}" if required else f'"{name}"'
        return f"in a plan: verifiers = [{entry}]"
    if plugin.group == "sinks":
        options = "&".join(f"{option.name}=..." for option in plugin.options[:1])
        return (
            f"in a plan: [sinks.{name}]; as a flag: --sink '{name}{'?' * bool(options)}{options}'"
        )
    key = "execution.engine" if plugin.group == "engines" else registry.singular(plugin.group)
    flags = [f"--{key} {name}"]
    plain = next((o for o in plugin.options if o.type in ("int", "float")), None)
    if plain is not None:
        value = "VALUE" if plain.default == "(required)" else plain.default.strip("'") or '""'
        flags.append(f"--{key}.{plain.name} {value}")
    parts = registry.parts(registry.plugin_class(plugin.group, name))
    part = next((o for o in plugin.options if o.name in parts), None)
    if part is not None:
        several = part.type.startswith("list of ")
        spec = """'["NAME OPTION=VALUE", ...]'""" if several else '"NAME OPTION=VALUE"'
        flags.append(f"--{key}.{part.name} {spec}")
    return f"as flags: {' '.join(flags)}"
