"""Plan files: TOML and command-line values to (Plan, Fleet, files of the job), and back to a document or to TOML.

Everything is checked here, before an engine starts: keys, types, ranges, plugins and their options, and what the engine must be able to
do. An error names the place, the field, the value and the remedy. `keys` describes every fixed key, so that the command line can offer
each as a flag. It reads the plan's file and nothing else: problems are `orchestrator.problems`'s.

Short forms, in files and flags alike: `model = "x"` for `[models.main] path = "x"`; `strategy = "x"`, and likewise `selector`,
`fleet.engine`, `domains.NAME` and each of `verifiers`, for a table with `name = "x"`; in `[domains.NAME]` the name may be left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

import msgspec

from orchestrator import registry
from orchestrator.core.errors import PlanError
from orchestrator.core.folds import parse_metric
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.types import Capability, PluginSpec, Sampling
from orchestrator.fleet import Fleet

Table: TypeAlias = dict[str, Any]
OutputFormat: TypeAlias = Literal["auto", "jsonl", "openai-batch"]


@dataclass(frozen=True, slots=True)
class Files:
    """The keys of a plan file that are neither plan nor fleet: where the job reads and writes."""

    problems: str = ""
    out: str = ""
    format: OutputFormat = "auto"


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A checked plan and fleet. `problems` and `out` are None when nothing names them.

    `out` defaults to `runs/` and the plan file's name without its suffix, else the problem file's. `format` "auto": an OpenAI batch is
    answered with one, beside results.jsonl.
    """

    plan: Plan
    fleet: Fleet
    problems: Path | None
    out: Path | None
    format: OutputFormat


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One fixed key, for flags and help. `type` is a Python annotation; `default` is TOML."""

    name: str
    type: str
    default: str
    help: str


# Short forms of the plan that are keys of their own; their values are texts, but for the last.
_HEADS = ("model", "strategy", "selector", "fleet.engine", "verifiers")
_SECTIONS: Mapping[str, type] = {"sampling": Sampling, "budget": Budget, "fleet": Fleet}
_SPECS = ("strategy", "selector", "fleet.engine")
_TOP = (
    *("problems", "out", "format", "model", "models", "domain", "domains", "seed"),
    *("strategy", "selector", "verifiers", "sampling", "budget", "fleet"),
)

_HELP: Mapping[str, str] = {
    "problems": "file of problems: JSONL, CSV, Parquet or OpenAI batch JSONL; in a plan file, relative to that file",
    "out": "directory of the job, relative to the current one; the same again resumes it",
    "format": "what is written beside results.jsonl: 'openai-batch', nothing ('jsonl'), or as the problems came ('auto')",
    "model": "the model: 'smollm2' (embedded), a local folder, or a hub name",
    "domain": "how answers are read and compared, for problems that do not say: math, number, choice, text, json",
    "seed": "all randomness derives from it, the problem's id and the trace's ordinal",
    "strategy": "how a problem is explored: consistency, adaptive, short-m@k, ... (`leadline plugins` lists all)",
    "selector": "how the pool is voted on: majority, weighted, best, ... (`leadline plugins` lists all)",
    "verifiers": "what scores each trace, by name",
    "sampling.temperature": "0 takes the likeliest token, and so the same trace every time; 1 samples as the model predicts",
    "sampling.top_p": "sample among the likeliest tokens that hold this share of the probability",
    "sampling.top_k": "sample among this many likeliest tokens; 0: no limit",
    "sampling.min_p": "drop tokens less likely than this share of the likeliest one's probability",
    "sampling.repetition_penalty": "above 1, tokens that have appeared become less likely",
    "sampling.max_new_tokens": "the longest a trace may get",
    "sampling.stop": "texts that end a trace",
    "sampling.system": "system message put before every problem; empty: none",
    "sampling.template": "what a plain prompt is put into, where {prompt} stands",
    "budget.traces": "most traces a problem may take; 0: no limit",
    "budget.tokens": "most output tokens a problem may take; 0: no limit",
    "budget.seconds": "longest a problem may take, from its first request; 0: no limit",
    "fleet.engine": "what runs the model: ray (vLLM on one or many machines), vllm, openai (any such server), fake (a dry run)",
    "fleet.window": "requests in flight at once",
    "fleet.open_problems": "problems explored at once; 0: as many as keep the window full",
    "fleet.checkers": "processes that compare answers",
    "fleet.checker_seconds": "longest one comparison may take",
    "fleet.strategy_seconds": "longest a strategy may compute between two traces before its problem fails",
}

# key -> (whether a value is in range, what is, for the message). NaN fails every one of them.
_RANGES: Mapping[str, tuple[Any, str]] = {
    "sampling.temperature": (lambda x: 0 <= x < math.inf, "at least 0; 0.6 to 1.0 is usual"),
    "sampling.top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1; 1 samples from all tokens"),
    "sampling.top_k": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "sampling.min_p": (lambda x: 0 <= x < 1, "at least 0 and below 1; 0 drops nothing"),
    "sampling.repetition_penalty": (lambda x: 0 < x < math.inf, "above 0; 1 changes nothing"),
    "sampling.max_new_tokens": (lambda x: x >= 1, "at least 1"),
    "sampling.stop": (all, "made of texts that are not empty"),
    "sampling.template": (lambda x: "{prompt}" in x, "a text that contains {prompt}, or every problem would get the same prompt"),
    "budget.traces": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "budget.tokens": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "budget.seconds": (lambda x: 0 <= x < math.inf, "at least 0; 0 is no limit"),
    "fleet.window": (lambda x: x >= 1, "at least 1"),
    "fleet.open_problems": (lambda x: x >= 0, "at least 0; 0 is as many as keep the window full"),
    "fleet.checkers": (lambda x: x >= 1, "at least 1"),
    "fleet.checker_seconds": (lambda x: 0 < x < math.inf, "above 0"),
    "fleet.strategy_seconds": (lambda x: 0 < x < math.inf, "above 0"),
}


def keys() -> list[KeyInfo]:
    """Return every fixed key with its type, default and help, in the order of the file."""
    plan, fleet = Plan(), Fleet()
    found: list[KeyInfo] = []

    def add(name: str, type: str, default: object) -> None:
        found.append(KeyInfo(name, type, _toml(default), _HELP[name]))

    for field in dataclasses.fields(Files):
        add(field.name, "str", field.default)
    add("model", "str", plan.models[plan.default_model].path)
    add("domain", "str", plan.domain)
    add("seed", "int", plan.seed)
    add("strategy", "str", plan.strategy.name)
    add("selector", "str", plan.selector.name)
    add("verifiers", "tuple[str, ...]", [])
    add("fleet.engine", "str", fleet.engine.name)
    for section, cls in _SECTIONS.items():
        for field in dataclasses.fields(cls):
            if f"{section}.{field.name}" not in _HEADS:
                add(f"{section}.{field.name}", str(field.type), field.default)
    return found


def load_plan(path: str | Path | None, overrides: Mapping[str, str] | None = None) -> LoadedPlan:
    """Return the plan of a file (or the default one, without a file) with flags applied over it, checked as a whole.

    `overrides` maps dotted keys to texts as typed on a command line. One that names another plugin or model than the file drops the
    options, or the revision, of the file's. PlanError for anything wrong, with the file and line of a syntax error.
    """
    flags = dict(overrides or {})
    source = "" if path is None else str(path)
    tree = {} if path is None else _spread(_parsed(Path(path)), source)
    _apply(tree, flags)
    origin = _Origin(source, flags)
    files = _section(Files, {k: tree.pop(k) for k in ("problems", "out", "format") if k in tree}, "", origin, _TOP)
    plan, fleet = _plan(tree, origin)
    try:
        check_plan(plan, fleet)
    except _RangeError as error:
        raise PlanError(f"{origin.place(error.key)}{error}") from error
    except PlanError as error:
        raise type(error)(f"{source}: {error}" if source else str(error)) from error
    problems = _located(files.problems, None if "problems" in flags or path is None else Path(path).parent)
    named = path or problems
    out = Path(files.out) if files.out else None if named is None else Path("runs") / Path(named).stem
    return LoadedPlan(plan, fleet, problems, out, files.format)


def check_plan(plan: Plan, fleet: Fleet) -> None:
    """Raise PlanError when a value is out of range, a plugin or its options are wrong, or the engine lacks what a plugin needs.

    Loads every plugin that the plan names and starts nothing.
    """
    _check_ranges(plan, fleet)
    strategy = registry.load("strategies", plan.strategy)
    selector = registry.load("selectors", plan.selector)
    verifiers = [registry.load("verifiers", spec) for spec in plan.verifiers]
    for name, spec in {plan.domain: PluginSpec(plan.domain), **plan.domains}.items():
        try:
            registry.load("domains", spec)
        except PlanError as error:
            raise type(error)(f"domains.{name}: {error}" if name in plan.domains else f"domain = {name!r}: {error}") from error
    backend = registry.load("engines", fleet.engine)
    able = backend.capabilities()
    askers = [(f"strategy {plan.strategy.name!r}", strategy), (f"selector {plan.selector.name!r}", selector)]
    askers += [(f"verifier {spec.name!r}", verifier) for spec, verifier in zip(plan.verifiers, verifiers, strict=True)]
    for what, plugin in askers:
        _check_needs(what, plugin, fleet.engine.name, able)
    pool = getattr(strategy, "model", "")  # by convention, the option that names a model pool
    if isinstance(pool, str) and pool and pool not in plan.models:
        raise PlanError(
            f"strategy {plan.strategy.name!r} asks for model {pool!r}{registry.near(pool, plan.models)}; "
            f"the plan's models are: {', '.join(plan.models)}"
        )


def _check_needs(what: str, plugin: object, engine: str, able: Collection[Capability]) -> None:
    wanted = registry.metrics(plugin)
    for name in wanted:
        try:
            parse_metric(name)
        except PlanError as error:
            raise PlanError(f"{what}: {error}") from error
    needed = registry.needs(plugin) | ({Capability.LOGPROBS} if wanted else frozenset())
    lacking = sorted(needed - set(able))
    if lacking:
        others = [name for name in _able_engines(needed) if name != engine]
        remedy = f"use an engine that has it: {', '.join(others)}" if others else "use one that does without it"
        raise PlanError(f"{what} needs {' and '.join(map(repr, lacking))}, which engine {engine!r} has not; {remedy}")


def _able_engines(needed: Collection[Capability]) -> Iterator[str]:
    for name in registry.names("engines"):
        try:
            backend = registry.load("engines", PluginSpec(name))
        except PlanError:  # not installed, or it has options without defaults: then it is no suggestion
            continue
        if set(needed) <= backend.capabilities():
            yield name


class _RangeError(PlanError):
    """A value out of range; `key` says whose, so that a loader can say where it was written."""

    def __init__(self, key: str, value: object, need: str) -> None:
        self.key = key
        super().__init__(f"{key} = {value!r}: it must be {need}")


def _check_ranges(plan: Plan, fleet: Fleet) -> None:
    owners = {"sampling": plan.sampling, "budget": plan.budget, "fleet": fleet}
    for key, (holds, need) in _RANGES.items():
        section, _, name = key.partition(".")
        value = getattr(owners[section], name)
        if not holds(value):
            raise _RangeError(key, value, need)
    if not plan.models:
        raise _RangeError("models", {}, "one model at least")
    for name, model in plan.models.items():
        if not model.path.strip():
            raise _RangeError(f"models.{name}.path", model.path, "'smollm2', a local folder or a hub name")
        if model.max_context_tokens < 0:
            raise _RangeError(f"models.{name}.max_context_tokens", model.max_context_tokens, "at least 0; 0 is as the model ships")
    names = [spec.name for spec in plan.verifiers]
    for name in names:
        if names.count(name) > 1:
            raise _RangeError("verifiers", names, f"different ones; {name!r} is there twice, and traces name verifiers by name")


def plan_document(plan: Plan, fleet: Fleet) -> dict[str, object]:
    """Return both as nested plain mappings in the layout of a plan file, in full: the record that a job directory keeps."""
    scalars: Table = {"domain": plan.domain, "seed": plan.seed}
    specs = {"strategy": _spec_table(plan.strategy), "selector": _spec_table(plan.selector)}
    fleet_keys = {f.name: getattr(fleet, f.name) for f in dataclasses.fields(fleet) if f.name != "engine"}
    return {
        **scalars,
        **specs,
        "sampling": _plain(dataclasses.asdict(plan.sampling)),
        "budget": dataclasses.asdict(plan.budget),
        "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
        "domains": {name: _spec_table(spec) for name, spec in plan.domains.items()},
        "verifiers": [_spec_table(spec) for spec in plan.verifiers],
        "fleet": {**fleet_keys, "engine": _spec_table(fleet.engine)},
    }


def plan_toml(plan: Plan, fleet: Fleet, files: Files = Files()) -> str:
    """Return a plan file that loads back to the same. An option that is None is left out: TOML has no such value."""
    own = {name: value for name, value in dataclasses.asdict(files).items() if value not in ("", "auto")}
    document = {**own, **plan_document(plan, fleet)}
    if not plan.domains:
        del document["domains"]
    lines = list(_toml_lines(document, ()))
    return "\n".join(lines) + "\n"


def _plan(tree: Table, origin: _Origin) -> tuple[Plan, Fleet]:
    sections = {name: tree.pop(name, {}) for name in _SECTIONS}
    fleet_table = _a_table(sections["fleet"], "fleet", origin)
    engine = fleet_table.pop("engine", None)
    fleet = _section(Fleet, fleet_table, "fleet", origin, [f.name for f in dataclasses.fields(Fleet)])
    if engine is not None:
        fleet = replace(fleet, engine=_spec(engine, "fleet.engine", origin))
    values: Table = {
        "sampling": _section(Sampling, sections["sampling"], "sampling", origin),
        "budget": _section(Budget, sections["budget"], "budget", origin),
    }
    for key in ("strategy", "selector"):
        if key in tree:
            values[key] = _spec(tree.pop(key), key, origin)
    if "models" in tree:
        models = _a_table(tree.pop("models"), "models", origin)
        values["models"] = {name: _model(table, f"models.{name}", origin) for name, table in models.items()}
    if "domains" in tree:
        domains = _a_table(tree.pop("domains"), "domains", origin)
        values["domains"] = {name: _spec(table, f"domains.{name}", origin, name) for name, table in domains.items()}
    if "verifiers" in tree:
        listed = tree.pop("verifiers")
        listed = listed if isinstance(listed, list) else [listed]
        values["verifiers"] = tuple(_spec(item, "verifiers", origin) for item in listed)
    for key, type in (("domain", str), ("seed", int)):
        if key in tree:
            values[key] = _converted(tree.pop(key), type, key, origin)
    _refuse_unknown(tree, _TOP, "", origin)
    return Plan(**values), fleet


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where values were written, for messages."""

    file: str
    flags: Mapping[str, str]

    def place(self, key: str) -> str:
        if any(key == flag or key.startswith(f"{flag}.") for flag in self.flags):
            return "on the command line: "
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
        raise PlanError(f"{path} is not a plan: TOML is UTF-8, and byte {error.start + 1} is not") from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = found[1] if found else str(text.rstrip().count("\n") + 1)
        what = re.sub(r" \(at .*\)$", "", str(error))
        column = f" (column {found[2]})" if found else ""
        raise PlanError(f"{path}:{line}: {what}{column}; texts go in quotes, and each key stands once") from error


def _spread(tree: Table, source: str) -> Table:
    """Return the file's tree without short forms, so that flags have one form to change."""
    if "model" in tree:
        if "models" in tree:
            raise PlanError(f"{source}: 'model' is short for [models.main]; keep it or [models], not both")
        tree["models"] = {"main": {"path": tree.pop("model")}}
    for key in ("strategy", "selector"):
        if isinstance(tree.get(key), str):
            tree[key] = {"name": tree[key]}
    fleet = tree.get("fleet")
    if isinstance(fleet, dict) and isinstance(fleet.get("engine"), str):
        fleet["engine"] = {"name": fleet["engine"]}
    domains = tree.get("domains")
    if isinstance(domains, dict):
        tree["domains"] = {name: {"name": value} if isinstance(value, str) else value for name, value in domains.items()}
    return tree


def _apply(tree: Table, flags: Mapping[str, str]) -> None:
    """Write flags into the tree: whole plugins before their options."""
    for key in sorted(flags, key=lambda key: (key.removesuffix(".name").count("."), key)):
        text = flags[key]
        head = key.removesuffix(".name")
        if key == "model":
            models = tree.get("models")
            pool = next(iter(models), "main") if isinstance(models, dict) else "main"
            _set(tree, f"models.{pool}", {"path": text})
        elif head in _SPECS or re.fullmatch(r"domains\.[^.]+", head):
            if _get(tree, f"{head}.name") != text:
                _set(tree, head, {"name": text})
        else:
            _set(tree, key, _value(key, text, _get(tree, key.rpartition(".")[0] + ".name")))


def _value(key: str, text: str, plugin: object) -> object:
    """Return a flag's text as the TOML value it is, or as the text itself: where it is none, and where the key takes texts."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return value if isinstance(value, str) or not _takes_text(key, plugin) else text


def _takes_text(key: str, plugin: object) -> bool:
    section, _, name = key.rpartition(".")
    if section in _SPECS and isinstance(plugin, str):
        group = {"strategy": "strategies", "selector": "selectors"}.get(section, "engines")
        try:
            return any(option.name == name and option.type == "str" for option in registry.options(group, plugin))
        except PlanError:  # an unknown plugin: check_plan says so better than a flag can
            return False
    owner = _SECTIONS.get(section, Model if section.startswith("models.") else Files if not section else None)
    if owner is Files and name == "domain":
        return True
    return owner is not None and any(f.name == name and f.type in ("str", "OutputFormat") for f in dataclasses.fields(owner))


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
        if not isinstance(inner, dict):
            raise PlanError(f"on the command line: there is no key {key!r}; {part!r} is not a table")
        table = inner
    table[last] = value


def _section(cls: type, table: object, prefix: str, origin: _Origin, known: Collection[str] | None = None) -> Any:
    checked = _a_table(table, prefix, origin)
    types = get_type_hints(cls)
    _refuse_unknown(checked, known or types, prefix, origin)
    dot = f"{prefix}." if prefix else ""
    return cls(**{name: _converted(value, types[name], f"{dot}{name}", origin) for name, value in checked.items()})


def _model(table: object, key: str, origin: _Origin) -> Model:
    table = {"path": table} if isinstance(table, str) else table
    if isinstance(table, dict) and "path" not in table:
        raise PlanError(f"{origin.place(key)}[{key}] has no path; write path = 'smollm2', a local folder or a hub name")
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
        msgspec.json.encode(options)
        json.dumps(options)  # which the fingerprint uses; unlike msgspec's it refuses dates
    except (TypeError, ValueError) as error:
        raise PlanError(f"{origin.place(key)}[{key}]: {error}; options are texts, numbers, true, false, lists and tables") from error
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
        raise PlanError(f"{origin.place(key)}{key} = {value!r}: it must be {_KINDS[type]}") from error


def _a_table(value: object, key: str, origin: _Origin) -> Table:
    if not isinstance(value, dict):
        raise PlanError(f"{origin.place(key)}{key} = {value!r}: it must be a table; write [{key}] and its keys below")
    return dict(value)


def _refuse_unknown(table: Table, known: Collection[str], prefix: str, origin: _Origin) -> None:
    for key in table:
        if key not in known:
            name = f"{prefix}.{key}" if prefix else key
            raise PlanError(f"{origin.place(name)}there is no key {name!r}{_near(key, known)}; there are: {', '.join(known)}")


def _near(key: str, known: Collection[str]) -> str:
    """Return the near match among these keys, or where at another level the key belongs."""
    hint = registry.near(key, known)
    if hint:
        return hint
    last = {info.name.rpartition(".")[2]: info.name for info in keys()}
    match = difflib.get_close_matches(key, last, n=1, cutoff=0.8)
    return f" (did you mean {last[match[0]]!r}?)" if match else ""


def _located(name: str, folder: Path | None) -> Path | None:
    return None if not name else Path(name) if folder is None else folder / name


def _spec_table(spec: PluginSpec) -> Table:
    return {"name": spec.name, **{name: _plain(value) for name, value in spec.options.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's own values first, then its tables: what follows a header in TOML belongs to it."""
    tables = {name: value for name, value in table.items() if isinstance(value, Mapping) and len(path) < 2}
    for name, value in table.items():
        if name not in tables and value is not None:
            yield f"{_toml_key(name)} = {_toml(value)}"
    for name, value in tables.items():
        inner = (*path, name)
        yield f"\n[{'.'.join(map(_toml_key, inner))}]"
        yield from _toml_lines(value, inner)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
