"""Plan files: TOML and command-line values to a checked plan, fleet and the files of the job.

Keys and types are checked here, with the place they were written; ranges and plugins by
`orchestrator.plan.check`. An error names place, field, value and remedy. It reads the plan's file
and nothing else: problems are `orchestrator.jobs.problems`'s.

Short forms, in files and flags alike: `model = "x"` for `[models.main] path = "x"`; `strategy =
"x"`, and likewise `selector`, `execution.engine`, `domains.NAME` and each of `verifiers`, for a
table with `name = "x"`; in `[domains.NAME]` the name may be left out. Parts (`strategy.inner`, ...)
are read by `orchestrator.plan.registry`; a flag may set one whole or one option of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import msgspec

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan import auto, registry
from orchestrator.plan.check import PlanFault, check_plan
from orchestrator.plan.execution import Execution
from orchestrator.plan.keys import SECTIONS, TOP, Files, OutputFormat, keys
from orchestrator.plan.spec_syntax import one_spec

Table: TypeAlias = dict[str, Any]
_SPECS = ("strategy", "selector", "execution.engine")


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A checked plan and fleet. `problems` and `out` are None when nothing names them.

    `out` defaults to `runs/` and the plan file's name without its suffix, else the problem file's.
    `format` "auto": an OpenAI batch is answered with one, beside results.jsonl.
    """

    plan: Plan
    execution: Execution
    problems: Path | None
    out: Path | None
    format: OutputFormat
    vote: PluginSpec | None = None  # the selector, where it was named
    chosen: bool = False  # whether what `auto` stands for was chosen just now
    notices: tuple[str, ...] = ()  # former names that the plan still uses


def load_plan(path: str | Path | None, overrides: Mapping[str, str] | None = None) -> LoadedPlan:
    """Return the plan of a file (or the default one, without a file) with flags applied over it,
    checked as a whole.

    `overrides` maps dotted keys to texts as typed on a command line. One that names another plugin
    or model than the file drops the options, or the revision, of the file's. PlanError for anything
    wrong, with the file and line of a syntax error.
    """
    flags = dict(overrides or {})
    source = "" if path is None else str(path)
    tree = {} if path is None else _parsed(Path(path))
    notices = _with_former_names(tree, source)
    tree = _unshortened(tree, source)
    _apply(tree, flags)
    origin = _Origin(source, flags)
    files = _section(
        Files, {k: tree.pop(k) for k in ("problems", "out", "format") if k in tree}, "", origin, TOP
    )
    written, execution, vote = _plan(tree, origin)
    plan = written
    # an engine or a verifier that does not load: `check_plan` says it
    with contextlib.suppress(PluginError):
        plan = auto.resolved(written, execution, vote)
    try:
        check_plan(plan, execution)
    except PlanFault as error:
        raise PlanError(f"{origin.place(error.key)}{error}") from error
    problems = _located(
        files.problems, None if "problems" in flags or path is None else Path(path).parent
    )
    named = path or problems
    out = (
        Path(files.out) if files.out else None if named is None else Path("runs") / Path(named).stem
    )
    notices += _former_options(written)
    return LoadedPlan(
        plan, execution, problems, out, files.format, vote, plan is not written, tuple(notices)
    )


def _with_former_names(tree: Table, source: str) -> list[str]:
    """Rename tables that had another name in version 0.1; return a notice for each."""
    if "fleet" not in tree:
        return []
    if "execution" in tree:
        raise PlanError(f"{source}: [fleet] is the former name of [execution]; keep one of them")
    tree["execution"] = tree.pop("fleet")
    return [f"{source}: [fleet] is now called [execution]"]


def _former_options(plan: Plan) -> list[str]:
    """Return a notice for each option of the strategy that is written with its former name."""
    try:
        former = registry.former_options(registry.plugin_class("strategies", plan.strategy.name))
    except PluginError:  # `check_plan` has said it
        return []
    return [
        f"strategy.{old} is now called strategy.{new}"
        for old, new in former.items()
        if old in plan.strategy.options
    ]


def _plan(tree: Table, origin: _Origin) -> tuple[Plan, Execution, PluginSpec | None]:
    """Return the plan, its fleet, and the selector if one was named."""
    sections = {name: tree.pop(name, {}) for name in SECTIONS}
    execution_table = _a_table(sections["execution"], "execution", origin)
    engine = execution_table.pop("engine", None)
    execution = _section(
        Execution,
        execution_table,
        "execution",
        origin,
        [f.name for f in dataclasses.fields(Execution)],
    )
    if engine is not None:
        execution = replace(execution, engine=_spec(engine, "execution.engine", origin))
    values: Table = {
        "sampling": _section(SECTIONS["sampling"], sections["sampling"], "sampling", origin),
        "budget": _section(SECTIONS["budget"], sections["budget"], "budget", origin),
    }
    for key in ("strategy", "selector"):
        if key in tree:
            values[key] = _spec(tree.pop(key), key, origin)
    if "models" in tree:
        models = _a_table(tree.pop("models"), "models", origin)
        values["models"] = {
            name: _model(table, f"models.{name}", origin) for name, table in models.items()
        }
    if "domains" in tree:
        domains = _a_table(tree.pop("domains"), "domains", origin)
        values["domains"] = {
            name: _spec(table, f"domains.{name}", origin, name) for name, table in domains.items()
        }
    if "verifiers" in tree:
        values["verifiers"] = tuple(
            _spec(item, "verifiers", origin) for item in _listed(tree.pop("verifiers"))
        )
    for key, type in (("domain", str), ("seed", int)):
        if key in tree:
            values[key] = _converted(tree.pop(key), type, key, origin)
    _refuse_unknown(tree, TOP, "", origin)
    named: PluginSpec | None = values.get("selector")
    if "strategy" in values and "selector" not in values:
        with contextlib.suppress(PluginError):  # `check_plan` says it, and where it was written
            values["selector"] = registry.own_selector(values["strategy"])
    return Plan(**values), execution, named


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where values were written, for messages."""

    file: str
    flags: Mapping[str, str]

    def place(self, key: str) -> str:
        if any(key == flag or key.startswith(f"{flag}.") for flag in self.flags):
            return "on the command line: "
        # one plugin's options, written in both
        if any(flag.startswith(f"{key}.") for flag in self.flags):
            return f"{self.file} with the command line: " if self.file else "on the command line: "
        return f"{self.file}: " if self.file else ""


def _parsed(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise PlanError(f"there is no plan file {path}") from error
    except IsADirectoryError as error:
        raise PlanError(f"{path} is a directory; name the plan file in it") from error
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(
            f"{path} is not a plan: TOML is UTF-8, and byte {error.start + 1} is not"
        ) from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = found[1] if found else str(text.rstrip().count("\n") + 1)
        what = re.sub(r" \(at .*\)$", "", str(error))
        column = f" (column {found[2]})" if found else ""
        raise PlanError(
            f"{path}:{line}: {what}{column}; texts go in quotes, and each key stands once"
        ) from error


def _unshortened(tree: Table, source: str) -> Table:
    """Return the file's tree without short forms, so that flags have one form to change."""
    if "model" in tree:
        if "models" in tree:
            raise PlanError(
                f"{source}: 'model' is short for [models.main]; keep it or [models], not both"
            )
        tree["models"] = {"main": {"path": tree.pop("model")}}
    for key in ("strategy", "selector"):
        if isinstance(tree.get(key), str):
            tree[key] = {"name": tree[key]}
    execution = tree.get("execution")
    if isinstance(execution, dict) and isinstance(execution.get("engine"), str):
        execution["engine"] = {"name": execution["engine"]}
    domains = tree.get("domains")
    if isinstance(domains, dict):
        tree["domains"] = {
            name: {"name": value} if isinstance(value, str) else value
            for name, value in domains.items()
        }
    return tree


def _apply(tree: Table, flags: Mapping[str, str]) -> None:
    """Write flags into the tree: whole plugins and models before their options."""
    for key in sorted(flags, key=lambda key: (key.removesuffix(".name").count("."), key)):
        text = flags[key]
        head = key.removesuffix(".name")
        if key == "model":
            models = tree.get("models")
            pool = next(iter(models), "main") if isinstance(models, dict) else "main"
            _choose(tree, f"models.{pool}", "path", text)
        elif re.fullmatch(r"models\.[^.]+", key):
            _choose(tree, key, "path", text)
        elif head in _SPECS or re.fullmatch(r"domains\.[^.]+", head):
            _choose(tree, head, "name", text)
        elif key == "verifiers":
            tree[key] = [_kept(tree, item) for item in _listed(_value(key, text, None))]
        elif key.startswith("verifiers."):
            _set_of_verifier(tree, key, text)
        else:
            section = key.rpartition(".")[0]
            _name_default(tree, section)
            _set(tree, key, _value(key, text, _get(tree, f"{section}.name")))


def _name_default(tree: Table, section: str) -> None:
    """Name the default plugin or model, where the file names none and a flag sets an option of it."""
    plan, execution = Plan(), Execution()
    defaults = {
        "strategy": plan.strategy.name,
        "selector": plan.selector.name,
        "execution.engine": execution.engine.name,
    }
    if section in defaults and _get(tree, section) is None:
        _set(tree, f"{section}.name", defaults[section])
    elif section == f"models.{plan.default_model}" and "models" not in tree:
        _set(tree, f"{section}.path", plan.models[plan.default_model].path)


def _choose(tree: Table, key: str, field: str, text: str) -> None:
    if _get(tree, f"{key}.{field}") != text:
        _set(tree, key, {field: text})


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _kept(tree: Table, item: object) -> object:
    """Return what the file says of a verifier that a flag names, else its name."""
    listed = _listed(tree.get("verifiers", []))
    return next(
        (known for known in listed if isinstance(known, dict) and known.get("name") == item), item
    )


def _set_of_verifier(tree: Table, key: str, text: str) -> None:
    name, _, option = key.removeprefix("verifiers.").rpartition(".")
    listed: list[Any] = [
        {"name": item} if isinstance(item, str) else item
        for item in _listed(tree.get("verifiers", []))
    ]
    found = next(
        (item for item in listed if isinstance(item, dict) and item.get("name") == name), None
    )
    if found is None:
        raise PlanError(
            f"on the command line: {key}: the plan has no verifier {name!r}; add --verifiers {name}"
        )
    found[option] = _value(f"verifiers.{option}", text, name)
    tree["verifiers"] = listed


def _value(key: str, text: str, plugin: object) -> object:
    """Return a flag's text as the TOML value it is, or as the text itself: where it is none, and
    where the key takes texts.
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        # ".5", which TOML wants as 0.5
        return float(text) if re.fullmatch(r"[-+]?\.\d+", text) else text
    return value if isinstance(value, str) or not _takes_text(key, plugin) else text


def _takes_text(key: str, plugin: object) -> bool:
    section, _, name = key.rpartition(".")
    # of a part only the parts of its owner know the group
    if isinstance(plugin, str) and _group(section) in registry.GROUPS:
        try:
            return any(
                option.name == name and option.type == "str"
                for option in registry.options(_group(section), plugin)
            )
        except PlanError:  # an unknown plugin: check_plan says so better than a flag can
            return False
    owner = SECTIONS.get(
        section, Model if section.startswith("models.") else Files if not section else None
    )
    return key == "domain" or (
        owner is not None
        and any(f.name == name and f.type == "str" for f in dataclasses.fields(owner))
    )


def _group(section: str) -> str:
    return {"strategy": "strategies", "selector": "selectors", "execution.engine": "engines"}.get(
        section, section.partition(".")[0]
    )


def _get(tree: Table, key: str) -> object:
    value: object = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _set(tree: Table, key: str, value: object) -> None:
    *parents, last = key.split(".")
    table = tree
    for part in parents:
        inner = table.setdefault(part, {})
        # a part in its short form
        if isinstance(inner, str) and key.startswith(("strategy.", "selector.")):
            own = one_spec(key, inner)
            inner = table[part] = {"name": own.name, **own.options}
        if not isinstance(inner, dict):
            raise PlanError(
                f"on the command line: there is no key {key!r}; {part!r} is not a table"
            )
        table = inner
    table[last] = value


def _section(
    cls: type, table: object, prefix: str, origin: _Origin, known: Collection[str] | None = None
) -> Any:
    checked = _a_table(table, prefix, origin)
    types = get_type_hints(cls)
    _refuse_unknown(checked, known or types, prefix, origin)
    dot = f"{prefix}." if prefix else ""
    return cls(
        **{
            name: _converted(value, types[name], f"{dot}{name}", origin)
            for name, value in checked.items()
        }
    )


def _model(table: object, key: str, origin: _Origin) -> Model:
    table = {"path": table} if isinstance(table, str) else table
    if isinstance(table, dict) and "path" not in table:
        raise PlanError(
            f"{origin.place(key)}[{key}] has no path; write path = 'smollm2', 'sounder', a local folder or a hub name"
        )
    model = _section(Model, table, key, origin)
    assert isinstance(model, Model)
    return model


def _spec(value: object, key: str, origin: _Origin, name: str | None = None) -> PluginSpec:
    table = {"name": value} if isinstance(value, str) else _a_table(value, key, origin)
    chosen = table.get("name", name)
    if not isinstance(chosen, str):
        raise PlanError(f"{origin.place(key)}[{key}] must name its plugin: write name = '...'")
    options = {option: value for option, value in table.items() if option != "name"}
    try:
        json.dumps(options)  # as the fingerprint does; it refuses dates
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"{origin.place(key)}[{key}]: {error}; options are texts, numbers, true, false, lists and tables"
        ) from error
    return PluginSpec(chosen, options)


_KINDS: Mapping[object, str] = {
    str: "a text in quotes",
    int: "a whole number",
    float: "a number",
    tuple[str, ...]: 'a list of texts, e.g. ["a", "b"]',
    OutputFormat: "'auto', 'jsonl' or 'openai-batch'",
}


def _converted(value: object, type: Any, key: str, origin: _Origin) -> Any:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise PlanError(
            f"{origin.place(key)}{key} = {value!r}: it must be {_KINDS[type]}"
        ) from error


def _a_table(value: object, key: str, origin: _Origin) -> Table:
    if not isinstance(value, dict):
        raise PlanError(
            f"{origin.place(key)}{key} = {value!r}: it must be a table; write [{key}] and its keys below"
        )
    return dict(value)


def _refuse_unknown(table: Table, known: Collection[str], prefix: str, origin: _Origin) -> None:
    for key in table:
        if key not in known:
            name = f"{prefix}.{key}" if prefix else key
            raise PlanError(
                f"{origin.place(name)}there is no key {name!r}{near_key(key, known)}; there are: {', '.join(known)}"
            )


def _located(name: str, folder: Path | None) -> Path | None:
    return None if not name else Path(name) if folder is None else folder / name


def near_key(key: str, known: Collection[str]) -> str:
    """Return the near match among these keys, or else where at another level such a key belongs; ""
    without one.
    """
    hint = registry.near(key, known)
    if hint:
        return hint
    homes = {info.name.rpartition(".")[2]: info.name for info in keys()}
    match = difflib.get_close_matches(key, homes, n=1, cutoff=0.8)
    return f" (did you mean {homes[match[0]]!r}?)" if match else ""
