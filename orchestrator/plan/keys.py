"""What a plan can set: the fixed keys of a plan file, and how any field describes itself.

The one rule: type and default come from the dataclass, range and meaning from msgspec's `Meta`, so
the loader, its errors, the flags and the documentation cannot disagree. Options of plugins are
fields like any other; `orchestrator.plan.registry.options` lists them.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from msgspec import Meta

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import Sampling
from orchestrator.plan.document import toml_value
from orchestrator.plan.execution import Execution

OutputFormat: TypeAlias = Literal["auto", "jsonl", "openai-batch"]


@dataclass(frozen=True, slots=True)
class Files:
    """The keys of a plan file that are neither plan nor fleet: where the job reads and writes."""

    problems: str = ""
    out: str = ""
    format: OutputFormat = "auto"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One fixed key, for flags and help. `type` is a Python annotation; `default` is TOML."""

    name: str
    type: str
    default: str
    help: str


SECTIONS: Mapping[str, type] = {"sampling": Sampling, "budget": Budget, "execution": Execution}
TOP = (
    *("problems", "out", "format", "model", "models", "domain", "domains", "seed"),
    *("strategy", "selector", "verifiers", "sampling", "budget", "execution"),
)

HELP: Mapping[str, str] = {
    "problems": "file of problems: JSONL, CSV, Parquet or OpenAI batch JSONL; in a plan file, relative to that file",
    "out": "directory of the job, relative to the current one; the same again resumes it",
    "format": "what is written beside results.jsonl: 'openai-batch', nothing ('jsonl'), or as the problems came ('auto')",
    "model": "the model: 'smollm2' or 'sounder' (embedded), a local folder, or a hub name",
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
    "sampling.depth": "latent depth: how often the think block of a looped model runs; 0: as the model ships",
    "sampling.stop": "texts that end a trace",
    "sampling.system": "system message put before every problem; empty: none",
    "sampling.template": "what a plain prompt is put into, where {prompt} stands",
    "budget.traces": "most traces a problem may take; 0: no limit",
    "budget.tokens": "most output tokens a problem may take; 0: no limit",
    "budget.seconds": "longest a problem may take, from its first request; 0: no limit",
    "execution.engine": "what runs the model: ray (vLLM on one or many machines), vllm, openai (any such server), fake (a dry run)",
    "execution.window": "requests in flight at once",
    "execution.open_problems": "problems explored at once; 0: as many as keep the window full",
    "execution.checkers": "processes that compare answers",
    "execution.checker_seconds": "longest one comparison may take",
    "execution.strategy_seconds": "longest a strategy may compute between two traces before its problem fails",
}


def keys() -> list[KeyInfo]:
    """Return every fixed key with its type, default and help, in the order of the file."""
    plan, execution = Plan(), Execution()
    found: list[KeyInfo] = []

    def add(name: str, type: str, default: object) -> None:
        found.append(KeyInfo(name, type, toml_value(default), HELP[name]))

    for field in dataclasses.fields(Files):
        add(field.name, "str", field.default)
    add("model", "str", plan.models[plan.default_model].path)
    add("domain", "str", plan.domain)
    add("seed", "int", plan.seed)
    add("strategy", "str", plan.strategy.name)
    add("selector", "str", plan.selector.name)
    add("verifiers", "tuple[str, ...]", [])
    add("execution.engine", "str", execution.engine.name)
    for section, cls in SECTIONS.items():
        for field in dataclasses.fields(cls):
            if field.name != "engine":  # above, by its name
                add(f"{section}.{field.name}", str(field.type), field.default)
    return found


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a dataclass, described for help texts and errors.

    `type` and `default` are Python source; `default` is "(required)" where there is none. `range`
    ("at least 1") and `description` are "" where the annotation gives none.
    """

    name: str
    type: str
    default: str
    range: str
    description: str
    kind: str  # the type in words

    @property
    def expected(self) -> str:
        """What a value must be, to follow "it must be"."""
        allowed = f"{self.kind}, {self.range}" if self.range else self.kind
        return f"{allowed}. {self.description}".rstrip(". ")


def field_infos(cls: type) -> list[FieldInfo]:
    """Return the fields of a dataclass that its constructor takes, in order of declaration."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # a name imported for type checking only: `build` reports it
        hints = {}
    return [
        _field_info(field, hints.get(field.name, field.type))
        for field in dataclasses.fields(cls)
        if field.init
    ]


def _field_info(field: dataclasses.Field[Any], hint: Any) -> FieldInfo:
    if field.default is not dataclasses.MISSING:
        default = repr(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        default = repr(field.default_factory())
    else:
        default = "(required)"
    description = next((meta.description for meta in _metas(hint) if meta.description), "")
    return FieldInfo(
        field.name, type_text(hint), default, range_text(hint), description, kind_text(hint)
    )


def _metas(hint: Any) -> Iterator[Meta]:
    """Yield what annotates a type, outermost first; alternatives of a union included."""
    if get_origin(hint) is Annotated:
        yield from (meta for meta in hint.__metadata__ if isinstance(meta, Meta))
        yield from _metas(hint.__origin__)
    elif get_origin(hint) in (Union, types.UnionType):
        for alternative in get_args(hint):
            yield from _metas(alternative)


def type_text(hint: Any) -> str:
    """Return a type as Python source, without annotations and module names."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(args[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, args))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if hint in (types.NoneType, None, ...):
        return "..." if hint is ... else "None"
    name = str(getattr(origin or hint, "__name__", hint))
    return f"{name}[{', '.join(map(type_text, args))}]" if args else name


_KINDS: Mapping[object, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "left out",
}


def kind_text(hint: Any) -> str:
    """Return a type in words, as a plan file writes its values."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return kind_text(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(kind_text, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, list) and kind_text(args[0]) in _KINDS.values():
        return f"a list, each item {kind_text(args[0])}"
    return _KINDS.get(hint) or f"of type {type_text(hint)}"


def range_text(hint: Any) -> str:
    """Return the values that a type's annotations allow: "at least 0 and below 1"; "" for all."""
    limits = [limit for meta in _metas(hint) for limit in _limits(meta)]
    items = next((range_text(item) for item in _items(hint)), "")
    return " and ".join([*limits, *([f"each {items}"] if items else [])])


def _items(hint: Any) -> Iterator[Any]:
    """Yield the type of a list's items, if it is a list."""
    while get_origin(hint) is Annotated:
        hint = hint.__origin__
    if get_origin(hint) in (tuple, list):
        yield get_args(hint)[0]


def _limits(meta: Meta) -> Iterator[str]:
    bounds = ((meta.ge, "at least"), (meta.gt, "above"), (meta.le, "at most"), (meta.lt, "below"))
    yield from (f"{word} {bound:g}" for bound, word in bounds if bound is not None)
    if meta.multiple_of is not None:
        yield f"a multiple of {meta.multiple_of:g}"
    if meta.min_length is not None:
        yield "not empty" if meta.min_length == 1 else f"of at least {meta.min_length} items"
    if meta.max_length is not None:
        yield f"of at most {meta.max_length} items"
    if meta.pattern is not None:
        yield (meta.extra or {}).get("range") or f"matching {meta.pattern}"
