"""Which fields of a row are its prompt, answer and the rest: as mapped, or guessed.

A guess is made only where one column alone can be meant; it is part of the row, so that it can be
printed. Not covered: whether a value is a valid prompt (`orchestrator.jobs.problems`).
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.jobs.rows.content.media import FIELD, MediaFault, image_part
from orchestrator.jobs.rows.record import Record, shortened
from orchestrator.plan.keys import Columns, near

Fields: TypeAlias = dict[str, Any]
Guess: TypeAlias = tuple[tuple[str, str], ...]  # (field, column)
_TARGETS = ("id", "prompt", "messages", "answer", "domain", "tests")
PROMPTS = frozenset(
    {"question", "problem", "query", "input", "instruction", "text", "prompts", "message"}
)
_ANSWERS = frozenset(
    {"final_answer", "expected_answer", "correct_answer", "gold_answer", "reference_answer"}
    | {"ground_truth"}
)
_PLACE = re.compile(r"\{([^{}]+)\}")


def no_question(fields: Mapping[str, Any]) -> str:
    """Return the error of a row without a question, naming the fields that were probably meant."""
    meant = [repr(name) for name in fields if name.lower() in PROMPTS]
    hint = (
        f"; name the one that is meant ({' or '.join(meant)}) with columns.prompt" if meant else ""
    )
    return f"it has neither 'prompt' nor 'messages'{hint}"


class Mapper:
    """Maps the columns of records to fields, as `columns` says; else by guesses."""

    def __init__(self, columns: Columns, name: str) -> None:
        self._columns = columns
        self._name = name  # of what is read
        self._specs = {t: spec for t in _TARGETS if (spec := getattr(columns, t))}
        self._folder = Path(columns.media) if columns.media else None
        image = (columns.image,) if columns.image else ()
        used = (*self._specs.values(), *columns.wrong, *columns.omit, *image)
        self._unseen = dict.fromkeys(column for spec in used for column in columns_in(spec))
        self._seen: set[str] = set()
        self._header: tuple[str, ...] = ()  # of the last file of cells
        dropped = (*(_dropped(t, spec) for t, spec in self._specs.items()), columns.wrong)
        self._dropped = {name for names in (*dropped, columns.omit, image) for name in names}

    def mapped(self, record: Record) -> tuple[Fields, str, Guess]:
        """Return a record's fields, why it is invalid (or ""), and what was guessed.

        PlanError when the table of the record lacks a column.
        """
        if self._unseen:
            self._note(record)
        if record.in_cells and tuple(record.fields) != self._header:
            self._require_question(record)
        fields = {name: value for name, value in record.fields.items() if value is not None}
        if not self._specs and not self._dropped:
            return self._guessed(fields, record)
        mapped = {name: value for name, value in fields.items() if name not in self._dropped}
        for other, own in (("messages", "prompt"), ("prompt", "messages")):
            if own in self._specs:
                mapped.pop(other, None)
        for target, spec in self._specs.items():
            missing = [name for name in columns_in(spec) if name not in fields]
            if missing and target in ("id", "prompt", "messages"):
                return mapped, f"its column {missing[0]!r} (columns.{target}) is empty", ()
            mapped.pop(target, None)
            if not missing:
                mapped[target] = _value(spec, fields)
        mapped, fault, guess = self._guessed(mapped, record)
        if self._columns.image and not fault:
            mapped, fault = self._with_images(mapped, fields)
        if self._columns.wrong and not fault:
            mapped, fault = self._with_choices(mapped, fields)
        return mapped, fault, guess

    def _with_images(self, mapped: Fields, fields: Fields) -> tuple[Fields, str]:
        """Return fields with what the image column has, one image or several."""
        cell = fields.get(self._columns.image, [])
        try:
            images = cell if isinstance(cell, list) else [cell]
            return {**mapped, FIELD: [image_part(one, self._folder) for one in images]}, ""
        except MediaFault as fault:
            return mapped, f"its column {self._columns.image!r} (columns.image): {fault}"

    def finish(self) -> None:
        """Raise PlanError for a column that no row had."""
        if self._unseen and self._seen:
            self._refuse(self._seen)

    def _note(self, record: Record) -> None:
        if record.error:
            return
        for name in record.fields:
            self._unseen.pop(name, None)
        self._seen.update(record.fields if len(self._seen) < 1000 else ())
        if record.in_table and self._unseen:
            self._refuse(record.fields)

    def _refuse(self, there: Iterable[str]) -> None:
        column = next(iter(self._unseen))
        keys = [t for t, spec in self._specs.items() if column in columns_in(spec)]
        named = {self._columns.image: "image", **dict.fromkeys(self._columns.wrong, "wrong")}
        key = keys[0] if keys else named.get(column, "omit")
        raise PlanError(
            f"{self._name} has no column {column!r}{near(column, there)} (columns.{key}); "
            f"it has: {', '.join(sorted(there))}"
        )

    def _require_question(self, record: Record) -> None:
        """Raise PlanError for a file of cells without a header, or without a question."""
        names = self._header = tuple(record.fields)
        known = {"id", "prompt", "messages"} & {*names, *self._specs}
        if not known and not any(target == "prompt" for target, _ in _guess(names)):
            raise PlanError(
                f"{self._name}: the first line must be a header with 'prompt' or 'messages'; it "
                f"has {shortened(', '.join(names))}; columns.prompt names another column"
            )

    def _guessed(self, fields: Fields, record: Record) -> tuple[Fields, str, Guess]:
        guess = _guess(tuple(fields))
        for target, column in guess:
            fields[target] = fields.pop(column)
        if record.in_cells and "answer" in fields:
            fields["answer"] = _list_in_cell(fields["answer"])
        return fields, "", guess

    def _with_choices(self, mapped: Fields, fields: Fields) -> tuple[Fields, str]:
        """Return fields whose prompt ends with lettered choices, and whose answer is a letter."""
        question, right = mapped.get("prompt"), mapped.get("answer")
        choices = [right, *(fields.get(name) for name in self._columns.wrong)]
        if not isinstance(question, str) or any(choice is None for choice in choices):
            return mapped, "a question with choices needs a text, the right choice and all others"
        key = str(mapped.get("id", question))
        order = sorted(range(len(choices)), key=lambda place: _rank(key, place))
        letters = string.ascii_uppercase
        listed = "\n".join(
            f"{letters[i]}) {_text(choices[place]).strip()}" for i, place in enumerate(order)
        )
        mapped["prompt"] = f"{question.strip()}\n\n{listed}"
        mapped["answer"] = letters[order.index(0)]
        return mapped, ""


def columns_in(spec: str) -> list[str]:
    """Return the columns that a mapping uses: those in braces, or the one that it names."""
    return _PLACE.findall(spec) or [spec]


def _dropped(target: str, spec: str) -> list[str]:
    """Return the columns that are no tags: what was renamed, and what shows the answer."""
    is_template = bool(_PLACE.search(spec))
    return columns_in(spec) if not is_template or target in ("answer", "tests") else []


def _value(spec: str, fields: Mapping[str, Any]) -> Any:
    if not _PLACE.search(spec):
        return fields[spec]
    return _PLACE.sub(lambda match: _text(fields[match[1]]), spec)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@lru_cache(maxsize=1024)
def _guess(names: tuple[str, ...]) -> Guess:
    """Return the fields that columns of other names must be."""
    guess = []
    if not {"prompt", "messages"} & set(names):
        meant = [name for name in names if name.lower() in (PROMPTS | {"prompt"})]
        guess += [("prompt", meant[0])] if len(meant) == 1 else []
    if "answer" not in names:
        meant = [name for name in names if name.lower() in (_ANSWERS | {"answer"})]
        guess += [("answer", meant[0])] if len(meant) == 1 else []
    return tuple(guess)


def _list_in_cell(cell: Any) -> Any:
    """Return the list of texts that a cell holds as JSON, or the cell (`[1, 2]` is an interval)."""
    try:
        return msgspec.json.decode(cell, type=list[str]) or cell
    except (msgspec.DecodeError, TypeError):
        return cell


def _rank(key: str, place: int) -> bytes:
    return hashlib.blake2b(f"{key}\0{place}".encode(errors="replace"), digest_size=8).digest()
