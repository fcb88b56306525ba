"""Every key of a plan as a flag, for click: the fixed keys by `plankeys.keys`, options of plugins
and pools by their dotted names.

Flags are handed on as the text that was typed; the plan's loader judges keys, types and values, so
that files and flags cannot differ in what they accept. Nothing of the loader is imported before a
flag or a help text is wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click

_OVERRIDES = "orchestrator.overrides"
_DYNAMIC = "orchestrator.dynamic"
# What is declared by a plugin or named by the user, and so cannot be listed here: options of
# plugins, of pools, of domains.
_OPEN_HEADS = r"(strategy|selector|verifiers|execution\.engine|domains\.[^.=]+|models\.[^.=]+)\.[^=]+|domains\.[^.=]+|models\.[^.=]+"
_TITLES = {
    "": "What to run",
    "sampling": "How tokens are drawn",
    "budget": "Limits per problem",
    "execution": "Where and how wide (decides speed, never answers)",
}
_METAVARS = {
    "int": "INTEGER",
    "float": "NUMBER",
    "bool": "BOOLEAN",
    "problems": "FILE",
    "out": "DIR",
}


class KeyFlag(click.Option):
    """A flag that sets a key of the plan.

    Its value goes to `overrides`, not to the command's function.
    """

    def __init__(
        self,
        key: str,
        *,
        type: str = "str",
        default: str = "",
        help: str = "",
        limits: Sequence[str] = (),
        hidden: bool = False,
    ) -> None:
        """Make `--KEY`; one of a list's type may be given several times."""
        self.key = key
        self._is_list = type.startswith("tuple")
        repeatable = " May be given several times." if self._is_list else ""
        notes = "; ".join(
            [*([] if default in ("", '""', "[]") else [f"default: {_unquoted(default)}"]), *limits]
        )
        super().__init__(
            [f"--{key}", "key_" + re.sub(r"\W", lambda found: f"_{ord(found[0])}_", key)],
            help=f"{help}{repeatable}{f'  [{notes}]' if notes else ''}",
            metavar=_METAVARS.get(key) or _METAVARS.get(type, "TEXT"),
            multiple=self._is_list,
            expose_value=False,
            hidden=hidden,
            callback=_remember,
        )

    def text(self, value: str | Sequence[str]) -> str:
        """Return the value as one text: several as a TOML list, one that is a list already as it
        is.
        """
        if isinstance(value, str):
            return value
        if len(value) == 1 and value[0].lstrip().startswith("["):
            return value[0]
        return json.dumps(list(value), ensure_ascii=False)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, ()) and isinstance(param, KeyFlag):
        ctx.meta.setdefault(_OVERRIDES, {})[param.key] = param.text(value)


def overrides(ctx: click.Context) -> dict[str, str]:
    """Return the keys that flags set, with their texts."""
    return dict(ctx.meta.get(_OVERRIDES, {}))


class PlanCommand(click.Command):
    """A command that takes the keys of a plan as flags, all of them or those that `accepts` holds
    for.
    """

    def __init__(
        self,
        *args: Any,
        accepts: Callable[[str], bool] = lambda key: True,
        without: Collection[str] = (),
        **settings: Any,
    ) -> None:
        """Make the command; the flags are made when they are wanted."""
        super().__init__(*args, **settings)
        self._accepts: Callable[[str], bool] = lambda key: accepts(key) and key not in without
        self._flags: list[KeyFlag] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, then the flags of keys."""
        if self._flags is None:
            from orchestrator.plan.keys import keys

            infos = [info for info in keys() if self._accepts(info.name)]
            self._flags = [
                KeyFlag(
                    i.name,
                    type=i.type,
                    default=i.default,
                    help=i.description,
                    limits=[i.range] if i.range else [],
                )
                for i in infos
            ]
        return [*super().get_params(ctx), *self._flags, *ctx.meta.get(_DYNAMIC, ())]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make a hidden flag for every option of a plugin that is given, then parse."""
        fixed = {option for param in self.get_params(ctx) for option in param.opts}
        given = [arg.partition("=")[0] for arg in _before_separator(args) if arg.startswith("--")]
        fresh = [
            option
            for option in dict.fromkeys(given)
            if option not in fixed and re.fullmatch(f"--({_OPEN_HEADS})", option)
        ]
        ctx.meta[_DYNAMIC] = [
            KeyFlag(option[2:], hidden=True) for option in fresh if self._accepts(option[2:])
        ]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags of keys section by section, then the command's own options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                section = (
                    _TITLES[param.key.rpartition(".")[0]]
                    if isinstance(param, KeyFlag)
                    else "About this command"
                )
                sections.setdefault(section, []).append(record)
        own = sections.pop("About this command", [])
        ordered = [(title, sections[title]) for title in _TITLES.values() if title in sections]
        for title, records in [*ordered, ("About this command", own)]:
            with formatter.section(title):
                formatter.write_dl(records)


def _before_separator(args: Sequence[str]) -> Sequence[str]:
    return args[: args.index("--")] if "--" in args else args


def _unquoted(default: str) -> str:
    return default[1:-1] if len(default) > 1 and default[0] == default[-1] == '"' else default
