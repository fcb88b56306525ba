"""Answers that are one JSON value; key order, spacing and the format of numbers do not matter.

The one rule: anything that RFC 8259 leaves undefined is not an answer. An object that has one name
with two different values has no value, NaN and Infinity are not JSON, and text that does not parse
equals only itself. Not covered: schemas are not checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from orchestrator.kit.answers.find import is_silent, reply
from orchestrator.kit.answers.statements.explicit import statements
from orchestrator.kit.answers.statements.statement import Mark, Statement

_FENCE = re.compile(r"^[ \t]{0,8}```[`]{0,3}[ \t]{0,3}([\w-]{0,20})[^\n`]{0,80}$", re.MULTILINE)
_MAX_BLOCKS = 16
_OPEN = re.compile(r"\[(?=\s{0,40}[\]\[{\"\-\dtfn])|\{(?=\s{0,40}[}\"])")
_NUMERAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d{1,18}))?")


class _Number(str):
    """A number in normal form: significant digits and a power of ten."""

    __slots__ = ()


class _Conflict(ValueError):
    """One name with two values in an object."""


@dataclass(frozen=True, slots=True)
class JsonValue:
    """One JSON value, compared as a value."""

    in_process: ClassVar[bool] = True
    expects: ClassVar[str] = "one JSON value, with texts in double quotes"
    lists_are_values: ClassVar[bool] = True
    reads_calls: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the text of the value stated last.

        The value is in a closed fence that contains JSON, in a box, or after "the answer is". In a
        finished reply without these, it is the last object or array, or the whole reply if that is
        a single value.
        """
        part = reply(text, finished)
        # {"answer": …} is a value itself, not a statement of one
        places = [place for place in statements(part.text) if place.mark is not Mark.FIELD]
        values = [*_fenced(part.text), *_marked(part.text, places)]
        if values:
            return max(values)[1]
        if not part.finished or not is_silent(places):
            return None
        whole = part.text.strip()
        return whole if _normal(whole) is not None else _last_container(part.text)

    def canonical(self, answer: str) -> str:
        """Return `=` and the value, with names sorted and numbers in normal form (1.0 is 1).

        For text that is not JSON, return `=!` and the text.
        """
        plain = answer.strip()
        normal = _normal(plain.removeprefix("="))
        return (
            "=" + normal
            if normal is not None
            else "=!" + " ".join(plain.removeprefix("=!").split())
        )

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the values are the same. Fast."""
        return self.canonical(a) == self.canonical(b)

    def read_reference(self, text: str) -> str | None:
        """Return a bare value as it is, else the value that the text gives explicitly."""
        bare = text.strip()
        return bare if _normal(bare) is not None else self.extract(text, finished=False)


def _fenced(text: str) -> Iterator[tuple[int, str]]:
    fences = list(_FENCE.finditer(text))
    for opened, closed in list(zip(fences[::2], fences[1::2], strict=False))[-_MAX_BLOCKS:]:
        content = text[opened.end() : closed.start()].strip()
        if (content[:1] in ("{", "[") or opened[1].lower() == "json") and _normal(
            content
        ) is not None:
            yield opened.start(), content


def _marked(text: str, places: list[Statement]) -> Iterator[tuple[int, str]]:
    for statement in places:
        if statement.mark in (Mark.BOX, Mark.TAG, Mark.HASHES):
            if (
                len(statement.texts) == 1
                and not statement.denied
                and _normal(statement.texts[0]) is not None
            ):
                yield statement.start, statement.texts[0]
            continue
        mark = re.match(r"[\s*_`:]{0,16}", text[statement.end : statement.end + 16])
        start = statement.end + len(mark[0] if mark else "")
        value, _ = _value_at(text, start)
        if value is not None and not statement.denied:
            yield statement.start, value


def _last_container(text: str) -> str | None:
    """Return the last object or array.

    None also where failed attempts cost more than four readings of the text.
    """
    value, at, budget = None, 0, 4 * len(text) + 10_000
    while (opened := _OPEN.search(text, at)) and budget > 0:
        container, cost = _value_at(text, opened.start())
        value = value if container is None else container
        at = opened.start() + (1 if container is None else len(container))
        budget -= cost if container is None else 0
    return value if budget > 0 else None


def _value_at(text: str, start: int) -> tuple[str | None, int]:
    """Return the text of the value that begins at `start`, or None, and what looking for it cost.

    The cost is about the number of characters that were looked at.
    """
    try:
        _, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        # making the error counts the lines before it, at C speed
        return (None, 1 + error.pos - start + error.pos // 64)
    except (_Conflict, RecursionError):
        return None, len(text)
    return text[start:end], end - start


def _normal(text: str) -> str | None:
    try:
        return _dump(_DECODER.decode(text))
    except (ValueError, RecursionError):
        return None


def _dump(value: object) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{json.dumps(name)}:{_dump(value[name])}" for name in sorted(value))
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_dump, value)) + "]"
    return json.dumps(value)


def _number(text: str) -> _Number:
    match = _NUMERAL.fullmatch(text)
    if match is None:  # an exponent of 19 digits: equal only to itself
        return _Number(text.lower())
    sign, whole, part, exponent = match.groups(default="")
    digits = (whole + part).lstrip("0")
    kept = digits.rstrip("0")
    power = int(exponent or "0") - len(part) + len(digits) - len(kept)
    if not kept:
        return _Number("0")
    return _Number(f"{sign}{kept}" + (f"e{power}" if power else ""))


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members and _dump(members[name]) != _dump(value):
            raise _Conflict(f"{name!r} has two values")
        members[name] = value
    return members


def _refuse(name: str) -> NoReturn:
    raise _Conflict(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_number,
    parse_int=_number,
    parse_constant=_refuse,
    strict=False,
)
