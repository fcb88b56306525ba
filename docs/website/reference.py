"""Pages of reference: every command with its flags, and every public name of the library.

Commands are read from the program itself. Names are listed for mkdocstrings, which reads their
signatures and docstrings from the sources. Links of the pages are relative to docs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import click

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.cli.options import EXIT_CODES
from website.text import prose

PACKAGES = {
    "orchestrator.core": "Values, commands of strategies, votes, protocols: standard library only.",
    "orchestrator.kit": "What plugins are built with, beside the core.",
    "orchestrator.testing": "The contract of each kind of plugin, as checks for your own tests.",
}


class _Sections(click.HelpFormatter):
    """Records the sections of a help text, with their rows, instead of printing them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def write_heading(self, heading: str) -> None:
        self.found.append((heading, []))

    def write_dl(self, rows: object, *_: object, **__: object) -> None:
        self.found[-1][1].extend(rows)  # type: ignore[arg-type]  # pairs, as click calls it


def commands(
    command: click.Command = leadline, parent: click.Context | None = None
) -> Iterator[tuple[click.Context, click.Command]]:
    """Yield every command below `command` that does something itself, in the order of the help."""
    context = click.Context(command, info_name=command.name, parent=parent)
    if not isinstance(command, click.Group):
        yield context, command
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None, name
        yield from commands(child, context)


def command_pages() -> Iterator[tuple[str, str]]:
    """Yield the path below docs and the page of every command, the overview first."""
    found = list(commands())
    rows = "\n".join(
        f"| [`{_title(ctx)}`]({_slug(ctx)}.md) | {_prose(cmd.get_short_help_str(200))} |"
        for ctx, cmd in found
    )
    table = f"| command | |\n|---|---|\n{rows}"
    overview = ["# Command line", _help(leadline), table, "## Exit codes", _exit_codes()]
    yield "reference/cli/index.md", "\n\n".join(overview) + "\n"
    for ctx, cmd in found:
        yield f"reference/cli/{_slug(ctx)}.md", _command_page(ctx, cmd)


def _title(ctx: click.Context) -> str:
    return ctx.command_path


def _slug(ctx: click.Context) -> str:
    return "-".join(ctx.command_path.split()[1:])


def _command_page(ctx: click.Context, command: click.Command) -> str:
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    parts = [f"# {_title(ctx)}", f"```text\n{usage}\n```", _help(command)]
    for heading, rows in _sections(ctx, command):
        table = "\n".join(f"| `{flag}` | {_prose(text)} |" for flag, text in rows)
        parts.append(f"## {heading}\n\n| flag | meaning |\n|---|---|\n{table}")
    parts.append("[Exit codes](index.md#exit-codes)")
    return "\n\n".join(parts) + "\n"


def _sections(
    ctx: click.Context, command: click.Command
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    formatter = _Sections()
    command.format_options(ctx, formatter)
    yield from ((heading, rows) for heading, rows in formatter.found if rows)


def _prose(text: str) -> str:
    return prose(text, "../../")


def _help(command: click.Command) -> str:
    """Return a command's help as markdown: examples as a block of code."""
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    parts = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            parts.append(_kept(paragraph[2:]))
        else:
            parts.append(_prose(paragraph))
    return "\n\n".join(parts)


def _kept(block: str) -> str:
    """Return a block whose lines are kept: what is indented is code, the rest leads in."""
    parts: list[str] = []
    block = re.sub(r"\n {4,}(?!leadline )(?=\S)", " ", block)  # a command of two lines
    for lines in re.findall(r"(?:^ +.*\n?)+|^\S.*\n?", block, re.MULTILINE):
        is_code = lines.startswith(" ")
        parts.append(f"```sh\n{inspect.cleandoc(lines)}\n```" if is_code else _prose(lines))
    return "\n\n".join(parts)


def _exit_codes() -> str:
    joined = re.sub(r"\n {4,}(?! *\d)", " ", EXIT_CODES)
    codes = re.findall(r"^ +(\d+) +(.*)$", joined, re.MULTILINE)
    return "| code | meaning |\n|---|---|\n" + "\n".join(f"| {c} | {_prose(t)} |" for c, t in codes)


# --- the library


def module_pages() -> Iterator[tuple[str, str]]:
    """Yield the path below docs and the page of the public API and of every module of it."""
    yield "reference/api/orchestrator.md", _public_names()
    homes = {home for modules in _GROUPS.values() for home in modules}
    for package, purpose in PACKAGES.items():
        found = [package, *_modules(package)]
        for name in found:
            lead = f"{purpose}\n\n" if name == package else ""
            # a public name is described twice, and references to it lead to the public page
            options = ["heading_level: 2", "show_root_heading: false", "show_root_toc_entry: false"]
            options += ["skip_local_inventory: true"] * (name in homes)
            block = "\n      ".join([f"::: {name}\n    options:", *options])
            title = name.removeprefix("orchestrator.")
            yield f"reference/api/{name}.md", f"# {title}\n\n{lead}{block}\n"


def _modules(package: str) -> Iterator[str]:
    module = import_module(package)
    for info in iter_modules(module.__path__, f"{package}."):
        if not info.name.rpartition(".")[2].startswith("_"):
            yield info.name


def _public_names() -> str:
    """Return the page of the names of `orchestrator`, by the module that defines them."""
    homes: dict[str, list[str]] = {}
    for name in orchestrator.__all__:
        homes.setdefault(orchestrator._HOME_OF[name], []).append(name)
    lead = (
        "Everything that a script or a notebook needs. Importing the package loads no engine. "
        "[From Python](../../python.md) shows how the functions work together."
    )
    parts = ["# orchestrator", lead]
    for title, modules in _GROUPS.items():
        names = [(home, name) for home in modules for name in homes.pop(home, ())]
        blocks = "\n\n".join(
            f"::: {home}.{name}\n    options:\n      heading_level: 3" for home, name in names
        )
        parts.append(f"## {title}\n\n{blocks}")
    assert not homes, f"public names without a place in the reference: {homes}"
    return "\n\n".join(parts) + "\n"


_GROUPS = {
    "Run": ("orchestrator.api.run", "orchestrator.api.problems"),
    "Results": (
        "orchestrator.api.accuracy",
        "orchestrator.api.results",
        "orchestrator.api.traces",
        "orchestrator.report.tables.frames",
    ),
    "Plans": ("orchestrator.core.plan", "orchestrator.plan.execution"),
    "Values": ("orchestrator.core.values",),
    "Plugins": (
        "orchestrator.plan.registry",
        "orchestrator.core.steps",
        "orchestrator.runtime.sinks.events",
    ),
    "Errors": ("orchestrator.core.errors",),
}
