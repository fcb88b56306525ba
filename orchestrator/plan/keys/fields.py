"""The description of any dataclass field: its type, default, range and meaning, in words.

Used for the fixed keys of a plan and for the options of plugins, so that both are explained alike.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec


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


def field_infos(cls: type) -> list[FieldInfo]:
    """Return the constructor fields of a dataclass, in order of declaration."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # a name imported for type checking only: `build` reports it
        hints = {}
    return [
        field_info(field, hints.get(field.name, field.type))
        for field in dataclasses.fields(cls)
        if field.init
    ]


def field_info(field: dataclasses.Field[Any], hint: Any) -> FieldInfo:
    """Return the description of one field whose type is `hint`."""
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


def unknown_options(cls: type, table: Mapping[str, object]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the options that a dataclass lacks, nested ones too: place, name, and what is known.

    The place is "" for the dataclass itself, else a path such as "endpoints[0]".
    """
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    yield from (("", name, sorted(known)) for name in table if name not in known)
    try:
        hints = get_type_hints(cls)
    except (NameError, TypeError):  # a name imported for type checking only: `build` reports it
        return
    for name in known & table.keys():
        for at, nested, value in _tables(hints[name], table[name], name):
            for place, option, others in unknown_options(nested, value):
                yield f"{at}.{place}" if place else at, option, others


def _tables(hint: Any, value: object, at: str) -> Iterator[tuple[str, type, Mapping[str, object]]]:
    """Yield the tables in a value that the type reads as dataclasses, with their paths."""
    args = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        for arg in args:
            yield from _tables(arg, value, at)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        yield at, hint, value
    elif args and isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _tables(args[0], item, f"{at}[{i}]")
    elif args and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tables(args[-1], item, f"{at}.{key}")


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
    if "$ref" in schema:
        return _KINDS["object"]
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
