"""Command-line options that commands share, and a flag for each key of a plan.

The one rule: the text of a flag is passed on unchanged. The plan's loader checks keys, types and
values, so files and flags accept the same input. The loader is imported only when a flag or a help
text is needed.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import click

TOO_MANY_FAILED = 3  # exit code
BUDGET_SPENT = 4  # exit code
EXIT_CODES = """\b
Exit codes:
  0    done
  1    the work could not be finished, or no problem ended with an answer or an abstention
  2    the command, the plan or an input file is invalid; nothing was started
  3    more problems failed than supervision.max_failed allows; they can be tried again
  4    budget.usd or budget.gpu_seconds is spent; a larger one continues the job
  130  stopped by Ctrl-C (143: by SIGTERM, 129: by a lost connection);
       finished traces are kept"""
_DEBUG = "orchestrator.debug"
_PLUGIN_FLAGS = "orchestrator.plugin_flags"
# Options of plugins, models and domains: plugins declare them, so they cannot be listed here.
_TABLES = r"(domains|models|prices)\.[^.=]+"
_PLUGIN_OPTIONS = rf"--((strategy|selector|verifiers|execution\.engine|{_TABLES})\.[^=]+|{_TABLES})"
_SECTIONS = {
    "": "What to run",
    "columns": "Which columns of the problems are read (docs/problems.md)",
    "batch": "OpenAI batches (docs/problems.md)",
    "few_shot": "Worked examples before each question (docs/problems.md)",
    "sampling": "How tokens are sampled",
    "budget": "Limits: of a problem, and of the whole job (usd, gpu_seconds, job_...)",
    "prices": "What tokens and GPUs cost; of a model: --prices.main.input, .cached_input, .output",
    "execution": "Where and how fast it runs (never changes answers)",
    "supervision": "What happens when requests or problems fail",
    "command": "This command",
}
_FLAGS = {"sinks": "sink"}  # a key whose flag has another name
_METAVARS = {
    "int": "INTEGER",
    "float": "NUMBER",
    "bool": "BOOLEAN",
    "problems": "PLACE",
    "out": "DIR",
}


@dataclass(frozen=True, slots=True)
class DisplayOptions:
    """The output options of a command: progress, summary and JSON."""

    every_seconds: float = 10.0
    quiet: bool = False
    as_json: bool = False
    debug: bool = False


# --- options that commands share

plan_argument = click.argument(
    "plan_file", required=False, type=click.Path(), metavar="[PLAN.toml]"
)
limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    callback=lambda ctx, param, value: value or 0,
    metavar="N",
    help="Use only the first N rows of the problem file. Results that are there remain.",
)
fresh_option = click.option(
    "--fresh",
    is_flag=True,
    help="Begin a new job beside one that is there: in DIR-2, DIR-3, ... Nothing is deleted.",
)
retry_option = click.option(
    "--retry-failed/--no-retry-failed",
    default=True,
    show_default=True,
    help="Try problems again that failed in an earlier run of this job.",
)
NO_SERVER = "none"
server_option = click.option(
    "--server",
    metavar="URL",
    envvar="LEADLINE_SERVER",
    show_envvar=True,
    help="Use the engines of the `leadline serve` at this address. Without it, one of yours on "
    "this machine is used if it has the plan's models and engine. `none`: never (docs/serve.md).",
)
report_option = click.option(
    "--report",
    "with_report",
    is_flag=True,
    help="At the end write report.html to the output directory, as `leadline report` does.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the numbers as JSON on the standard output."
)


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = wants_debug(ctx) or value


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Print tracebacks, and the engine's own output, on the error stream.",
)


def wants_debug(ctx: click.Context) -> bool:
    """Return whether `--debug` was given."""
    return bool(ctx.meta.get(_DEBUG))


def display_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the output options; the command receives them as one argument, `display`."""

    @click.option(
        "--every",
        "every_seconds",
        type=click.FloatRange(min=0.1),
        default=10.0,
        metavar="SECONDS",
        show_default=True,
        help="Seconds between lines of progress if the error stream is not a terminal.",
    )
    @click.option(
        "--quiet",
        "-q",
        is_flag=True,
        help="Print only errors, answers and --json: no progress, no tables.",
    )
    @json_option
    @debug_option
    @functools.wraps(function)
    def command(*, every_seconds: float, quiet: bool, as_json: bool, **arguments: Any) -> int:
        debug = wants_debug(click.get_current_context())
        return function(display=DisplayOptions(every_seconds, quiet, as_json, debug), **arguments)

    return command


# --- keys of a plan as flags


class KeyFlag(click.Option):
    """A flag that sets a key of the plan; a list's flag may be repeated.

    Its value reaches the command in `flags`, see `PlanCommand`.
    """

    def __init__(
        self,
        key: str,
        *,
        type: str = "str",
        default: str = "",
        range: str = "",
        help: str = "",
        hidden: bool = False,
    ) -> None:
        """Declare `--KEY`."""
        self.key = key
        is_list = type.startswith("tuple")
        defaults = [] if default in ("", '""', "[]") else [f"default: {_unquoted(default)}"]
        notes = "; ".join([*defaults, *filter(None, [range])])
        repeatable = " May be repeated." if is_list else ""
        super().__init__(
            [
                f"--{_FLAGS.get(key, key)}",
                "key_" + re.sub(r"\W", lambda match: f"_{ord(match[0])}_", key),
            ],
            help=f"{help}{repeatable}{f'  [{notes}]' if notes else ''}",
            metavar=_METAVARS.get(key) or _METAVARS.get(type, "TEXT"),
            multiple=is_list,
            hidden=hidden,
        )

    def text(self, value: str | Sequence[str]) -> str:
        """Return the value as one text: repeated values as a TOML list, a list as it is."""
        if isinstance(value, str):
            return value
        if len(value) == 1 and value[0].lstrip().startswith("["):
            return value[0]
        return json.dumps(list(value), ensure_ascii=False)


def _unquoted(default: str) -> str:
    return default[1:-1] if len(default) > 1 and default[0] == default[-1] == '"' else default


class PlanCommand(click.Command):
    """A command that accepts the keys of a plan as flags and receives the set ones as `flags`.

    `accepts` tells which keys are accepted; `without` names exceptions.
    """

    def __init__(
        self,
        *args: Any,
        accepts: Callable[[str], bool] = lambda key: True,
        without: Collection[str] = (),
        **settings: Any,
    ) -> None:
        """Declare the command; its flags are created on demand."""
        settings = {"epilog": EXIT_CODES, "options_metavar": "[FLAGS]", **settings}
        super().__init__(*args, **settings)
        self._accepts: Callable[[str], bool] = lambda key: accepts(key) and key not in without
        self._flags: list[KeyFlag] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, then the flags of keys."""
        if self._flags is None:
            from orchestrator.plan.keys import keys

            self._flags = [
                KeyFlag(
                    key.name,
                    type=key.type,
                    default=key.default,
                    range=key.range,
                    help=key.description,
                )
                for key in keys()
                if self._accepts(key.name)
            ]
        return [*super().get_params(ctx), *self._flags, *ctx.meta.get(_PLUGIN_FLAGS, ())]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Declare a hidden flag for each option of a plugin on the command line, then parse."""
        known = {option for param in self.get_params(ctx) for option in param.opts}
        before_separator = args[: args.index("--")] if "--" in args else args
        options = Counter(arg.partition("=")[0] for arg in before_separator)
        ctx.meta[_PLUGIN_FLAGS] = [
            # one that is given several times is a list
            KeyFlag(option[2:], type="tuple" if n > 1 else "str", hidden=True)
            for option, n in options.items()
            if option not in known
            and re.fullmatch(_PLUGIN_OPTIONS, option)
            and self._accepts(option[2:])
        ]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command with the keys that flags set, as they were typed."""
        values = {
            param: ctx.params.pop(param.name)
            for param in self.get_params(ctx)
            if isinstance(param, KeyFlag) and param.name is not None
        }
        ctx.params["flags"] = {
            flag.key: flag.text(value) for flag, value in values.items() if value not in (None, ())
        }
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags of keys section by section, then the command's own options."""
        sections: dict[str, list[tuple[str, str]]] = {section: [] for section in _SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and record[1]:  # an argument without a help text has none
                key = param.key if isinstance(param, KeyFlag) else "command."
                sections[key.rpartition(".")[0]].append(record)
        for section, records in sections.items():
            if records:
                with formatter.section(_SECTIONS[section]):
                    formatter.write_dl(records)
