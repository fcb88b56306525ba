"""The fixed keys of a plan in one table, and the description of any dataclass field.

The one rule: types and defaults come from the dataclasses, ranges and meanings from msgspec's
`Meta`. The loader, its errors, the flags and the documentation are all generated from these, so
they cannot disagree. `orchestrator.plan.registry.options` lists the options of plugins in the same
way. `python -m orchestrator.plan.keys` prints the table for the documentation.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from orchestrator.core.errors import PlanFault as PlanFault
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.values import PluginSpec, Sampling
from orchestrator.plan.execution import Execution, Supervision

OutputFormat: TypeAlias = Literal["auto", "jsonl", "openai-batch"]
_PLAN = Plan()


@dataclass(frozen=True, slots=True)
class TopLevel:
    """The keys at the top of a plan file that have one value; plugins and the model by name."""

    problems: str = ""
    out: str = ""
    format: OutputFormat = "auto"
    model: str = _PLAN.models[_PLAN.default_model].path
    domain: str = _PLAN.domain
    seed: int = _PLAN.seed
    answers_in_thinking: bool = _PLAN.answers_in_thinking
    strategy: str = _PLAN.strategy.name
    selector: str = _PLAN.selector.name
    verifiers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the rows hold the fields of problems; "" is the column of the same name.

    A text with {NAME} is a template over several columns.
    """

    id: str = ""
    prompt: str = ""
    messages: str = ""
    answer: str = ""
    domain: str = ""
    tests: str = ""
    wrong: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()


POOL = "models.NAME"  # the section of any one model
SECTIONS: Mapping[str, type] = {
    "": TopLevel,
    "columns": Columns,
    "sampling": Sampling,
    "budget": Budget,
    "execution": Execution,
    "supervision": Supervision,
    POOL: Model,
}
TABLES = (
    "columns",
    "models",
    "domains",
    "sampling",
    "budget",
    "execution",
    "supervision",
)  # at the top of a plan file

_MODEL = "The model: 'smollm2' or 'sounder' (embedded), a local folder, or a name on the model hub."
KEYS: Mapping[str, Meta] = {
    "problems": Meta(
        description="The problems: a file, folder, glob, URI, '-' for standard input, or recipe "
        "(docs/problems.md); a path in a plan file is relative to that file."
    ),
    "out": Meta(
        description="The job's directory, relative to the current one. Naming it again resumes it."
    ),
    "format": Meta(
        description="The output in addition to results.jsonl: none (jsonl), OpenAI batch output "
        "(openai-batch), or the one that matches the problem file (auto)."
    ),
    "model": Meta(description=_MODEL),
    "domain": Meta(
        description="The domain, which reads and compares answers, of problems that name none."
    ),
    "seed": Meta(description="The seed of all randomness, with the problem's id and the ordinal."),
    "answers_in_thinking": Meta(
        description="Whether an answer counts that stands only in thinking without a reply."
    ),
    "strategy": Meta(description="The strategy, which explores problems; see `leadline plugins`."),
    "selector": Meta(description="The selector, which ranks answers; see `leadline plugins`."),
    "verifiers": Meta(description="The verifiers that score each trace, by name."),
    "columns.id": Meta(
        description="The column with the id, or a template such as {year}-{number}."
    ),
    "columns.prompt": Meta(description="The column with the question, or a template of several."),
    "columns.messages": Meta(description="The column with the messages of a conversation."),
    "columns.answer": Meta(description="The column with the reference answer, or a template."),
    "columns.domain": Meta(description="The column with the domain."),
    "columns.tests": Meta(description="The column with the tests of a program, or a template."),
    "columns.wrong": Meta(
        description="Columns of wrong choices: the prompt gets lettered choices, in an order that "
        "the id decides, and the reference is the letter of the right one."
    ),
    "columns.omit": Meta(
        description="Columns that are not kept as tags, such as a worked solution."
    ),
    "sampling.temperature": Meta(
        ge=0,
        description="0 takes the most likely token, so every trace is the same; 0.6 to 1 is usual.",
    ),
    "sampling.top_p": Meta(
        gt=0,
        le=1,
        description="Sample among the most likely tokens of this total probability; 1 is no limit.",
    ),
    "sampling.top_k": Meta(
        ge=0, description="Sample among this many most likely tokens; 0 is no limit."
    ),
    "sampling.min_p": Meta(
        ge=0,
        lt=1,
        description="Drop tokens less likely than this share of the most likely one; 0 drops none.",
    ),
    "sampling.repetition_penalty": Meta(
        gt=0,
        description="Above 1, tokens that have appeared become less likely; 1 changes nothing.",
    ),
    "sampling.max_new_tokens": Meta(ge=1, description="The most tokens that one trace may have."),
    "sampling.depth": Meta(
        ge=0,
        description="Latent depth: how often a looped model's think block runs; 0 is as it ships.",
    ),
    "sampling.stop": Meta(
        extra={"item": Meta(min_length=1)}, description="Texts that end a trace."
    ),
    "sampling.system": Meta(description="The system message of every problem; empty for none."),
    "sampling.template": Meta(
        pattern=r"\{prompt\}",
        extra_json_schema={"range": "containing {prompt}"},
        description="The template of plain prompts; {prompt} is replaced by the prompt.",
    ),
    "budget.traces": Meta(ge=0, description="The most traces of a problem; 0 is no limit."),
    "budget.tokens": Meta(ge=0, description="The most output tokens of a problem; 0 is no limit."),
    "budget.seconds": Meta(
        ge=0, description="The most seconds of a problem, from its first request; 0 is no limit."
    ),
    "execution.engine": Meta(
        description="The engine that runs the model: ray (vLLM on any number of machines), vllm, "
        "openai (any OpenAI-compatible server), fake (a dry run)."
    ),
    "execution.window": Meta(ge=1, description="The most requests in flight at once."),
    "execution.open_problems": Meta(
        ge=0, description="The most problems explored at once; 0 is as many as fill the window."
    ),
    "execution.checkers": Meta(ge=1, description="The number of processes that compare answers."),
    "execution.checker_seconds": Meta(
        gt=0, description="The longest that one comparison of answers may take, in seconds."
    ),
    "execution.strategy_seconds": Meta(
        gt=0, description="The longest that a strategy may compute between two traces, in seconds."
    ),
    "supervision.patience_seconds": Meta(
        ge=0,
        description="How long refused or lost requests are sent again, in seconds; 0 is never.",
    ),
    "supervision.max_failed": Meta(
        ge=0, le=1, description="The share of problems that may fail; with more the exit code is 3."
    ),
    "models.NAME.path": Meta(
        pattern=r"\S", extra_json_schema={"range": "not empty"}, description=_MODEL
    ),
    "models.NAME.revision": Meta(
        description="The revision on the hub; an empty text is the newest."
    ),
    "models.NAME.max_context_tokens": Meta(
        ge=0, description="The longest context to reserve memory for; 0 is as the model ships."
    ),
    "models.NAME.layers": Meta(
        description="The layer schedule, as in 0-9 (10-19)*r 20-29; an empty text is as it ships."
    ),
    "models.NAME.max_depth": Meta(
        ge=0, description="The largest latent depth to reserve memory for; 0 is as the model ships."
    ),
    "models.NAME.damped": Meta(
        description="Whether each of r iterations moves the state only 1/r of the way."
    ),
    "models.NAME.residual": Meta(
        ge=0,
        lt=1,
        description="The share of the previous state that an iteration keeps; 0 is the plain loop.",
    ),
    "models.NAME.exit": Meta(
        description="The rule by which a token stops iterating early, as in state<0.03."
    ),
    "models.NAME.task": Meta(
        description="The task of a model that returns values: classify, token_classify or embed."
    ),
    "models.NAME.reasoning_parser": Meta(
        description="vLLM's parser of this model's thinking; empty: by its family; none: by tags."
    ),
}


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a dataclass, described for help texts and errors.

    `type` is Python source; so is the `default` of an option, while that of a key is TOML, and
    "(required)" means none. `range` ("at least 1") and `description` may be "".
    """

    name: str
    type: str
    default: str
    range: str
    description: str
    kind: str  # the type in words

    @property
    def expected(self) -> str:
        """The requirement on a value, phrased to follow "it must be"."""
        allowed = f"{self.kind}, {self.range}" if self.range else self.kind
        return f"{allowed}. {self.description}".rstrip(". ")


def keys() -> list[FieldInfo]:
    """Return every fixed key but those of a model, in the order of the table."""
    return [_key_info(name) for name in KEYS if not name.startswith(f"{POOL}.")]


def markdown_table() -> str:
    """Return all fixed keys as a table for the documentation."""
    lines = ["| key | type | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for info in map(_key_info, KEYS):
        cells = (f"`{info.name}`", info.kind, f"`{info.default}`", info.range, info.description)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_section(section: str, table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a section, each as its field's type.

    `prefix` is the section's name in this plan if that differs from its name in `SECTIONS`.
    PlanFault for an unknown key, a wrong type or a value out of range.
    """
    prefix = prefix or section
    hints = _hints(section)
    refuse_unknown(table, hints, prefix)
    values = {}
    for name, value in table.items():
        try:  # a float of NumPy is a float
            plain = float(value) if isinstance(value, float) else value
            values[name] = msgspec.convert(plain, hints[name])
        except msgspec.ValidationError as error:
            raise _out_of_range(section, prefix, name, value) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise _out_of_range(section, prefix, name, value)
    return values


def takes_text(section: str, name: str) -> bool:
    """Tell whether a key's value is a text."""
    return section in SECTIONS and type_text(_hints(section).get(name)) == "str"


def refuse_unknown(table: Iterable[str], known: Collection[str], prefix: str) -> None:
    """Raise PlanFault for the first key that is not known, with the near match."""
    for key in table:
        if key not in known:
            name, hint = _dotted(prefix, key), near(key, known) or _near_elsewhere(key)
            there = ", ".join(sorted(known))
            raise PlanFault(name, f"there is no key {name!r}{hint}; there are: {there}")


def _out_of_range(section: str, prefix: str, name: str, value: object) -> PlanFault:
    key, expected = _dotted(prefix, name), _key_info(_dotted(section, name)).expected
    return PlanFault(key, f"{key} = {value!r}: it must be {expected}")


def _near_elsewhere(key: str) -> str:
    """Return a suggestion, as `near` does, for a key that belongs at another level of the plan."""
    homes = {info.name.rpartition(".")[2]: info.name for info in keys()}
    matches = difflib.get_close_matches(key, homes, n=1, cutoff=0.8)
    return f" (did you mean {homes[matches[0]]!r}?)" if matches else ""


def near(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known word, or ""."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


@functools.cache
def _hints(section: str) -> Mapping[str, Any]:
    """Return the types of a section's keys, annotated with their entries in the table."""
    hints = {}
    for name, hint in get_type_hints(SECTIONS[section]).items():
        if hint in SECTIONS.values():  # a table of its own
            continue
        meta = KEYS[_dotted(section, name)]
        if hint is PluginSpec:
            hint = str
        elif item := (meta.extra or {}).get("item"):
            hint = tuple[Annotated[str, item], ...]
        hints[name] = Annotated[hint, meta]
    return hints


@functools.cache
def _key_info(key: str) -> FieldInfo:
    section, _, name = key.rpartition(".")
    field = next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == name)
    info = _field_info(field, _hints(section)[name])
    if field.default is not dataclasses.MISSING:
        default = getattr(field.default, "name", field.default)  # of a plugin its name
        info = dataclasses.replace(info, default=json.dumps(default, ensure_ascii=False))
    return dataclasses.replace(info, name=key)


def field_infos(cls: type) -> list[FieldInfo]:
    """Return the constructor fields of a dataclass, in order of declaration."""
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
    try:
        schema = msgspec.json.schema(hint, schema_hook=lambda cls: {"title": str(cls)})
    except (TypeError, NameError):  # an annotation that does not resolve
        schema = {}
    schemas = (schema, *schema.get("anyOf", ()))
    return FieldInfo(
        field.name,
        type_text(hint),
        default,
        " and ".join(_limits(schema)),
        next((s["description"] for s in schemas if "description" in s), ""),
        _kind(schema) or f"of type {type_text(hint)}",
    )


def type_text(hint: Any) -> str:
    """Return a type as Python source, without annotations and module names."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(args[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, args))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if hint in (types.NoneType, ...):
        return "..." if hint is ... else "None"
    name = str(getattr(origin or hint, "__name__", hint))
    return f"{name}[{', '.join(map(type_text, args))}]" if args else name


# by the names of JSON schema
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_KINDS = {
    "string": "a text in quotes",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "left out",
    "array": "a list",
    "object": "a table",
}
_LISTS = {
    "string": 'a list of texts, e.g. ["a", "b"]',
    "integer": "a list of whole numbers, e.g. [1, 2]",
    "number": "a list of numbers, e.g. [0.5, 1]",
}


def _kind(schema: Mapping[str, Any]) -> str:
    """Return a type in words, as a plan file writes its values."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    item = (schema.get("items") or {}).get("type", "")
    return _LISTS.get(item) or _KINDS.get(schema.get("type", ""), "")


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits on a value: "at least 0", "below 1"."""
    yield from (f"{word} {schema[bound]:g}" for bound, word in _BOUNDS.items() if bound in schema)
    if schema.get("minLength") or schema.get("minItems"):
        yield "not empty"
    if "pattern" in schema:
        yield schema.get("range") or f"matching {schema['pattern']}"
    for alternative in schema.get("anyOf", ()):
        yield from _limits(alternative)
    if schema.get("items"):
        yield from (f"each {limit}" for limit in _limits(schema["items"]))


if __name__ == "__main__":
    sys.stdout.write(markdown_table())
