"""From a file of rows to Problems: prompts and messages, domains, tags.

An invalid row becomes a Result of status INVALID that names file and line, and the rest continues;
a file without any valid row is a PlanError. Reference answers are dropped here;
`orchestrator.studies.evaluate` reads them by the same ids. `orchestrator.jobs.rows` handles
formats, encodings and ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Settings
from orchestrator.core.values import Message, Problem, Prompt, Result, Status
from orchestrator.jobs.openai_batch import settings_of
from orchestrator.jobs.rows import Format, Row, Rows, no_question, row_from
from orchestrator.jobs.rows.stored import StoredList
from orchestrator.plan import keys, registry
from orchestrator.plan.file.sources import is_uri

Requirement: TypeAlias = Callable[[Settings], None]
_ROLES = ("system", "user", "assistant")
_OWN_FIELDS = ("prompt", "messages", "domain", "answer")


@dataclass(frozen=True, slots=True)
class ProblemFile:
    """The contents of a file; `order` has the id of every row, invalid ones included, in order.

    Iterating over it gives its problems. `limit` is how many rows count, 0 for all. The sequences
    of a large file are on disk (`StoredList`).
    """

    problems: Sequence[Problem]
    invalid: Sequence[Result]
    warnings: tuple[str, ...]
    order: Sequence[str]
    format: Format
    path: Path
    limit: int = 0

    def __iter__(self) -> Iterator[Problem]:
        """Yield its problems in order."""
        return iter(self.problems)

    def __len__(self) -> int:
        """Return the number of its problems."""
        return len(self.problems)

    def domains(self, default: str) -> Mapping[str, str]:
        """Return the domain of each problem by its id; `default` is that of most."""
        return _Domains(self.problems, default)


class _Domains(Mapping[str, str]):
    """The domains of problems; only those that differ from the default are in memory."""

    def __init__(self, problems: Sequence[Problem], default: str) -> None:
        self._problems, self._default = problems, default
        self._others = {p.id: p.domain for p in problems if p.domain != default}

    def __getitem__(self, id: str) -> str:
        return self._others.get(id, self._default)

    def __iter__(self) -> Iterator[str]:
        return (problem.id for problem in self._problems)

    def __len__(self) -> int:
        return len(self._problems)


class _Invalid(Exception):
    """Why a row is invalid. Never leaves this file."""


def read_problems(
    path: str | Path,
    *,
    default_domain: str,
    domains: Collection[str] = (),
    limit: int = 0,
    begun: Collection[str] = (),
    require: Requirement | None = None,
) -> ProblemFile:
    """Return the problems of a file: of its first `limit` rows, and those with an id in `begun`.

    With limit 0 all rows count. `default_domain` is for rows that name none; `domains` are names
    that rows may use in addition to the installed domains (a plan's own). OpenAI batch rows have
    settings of their own; `require` raises PlanError for those that the job cannot honour, and a
    warning names fields that have no effect. PlanError when the file cannot be read or no row is
    valid.
    """
    if is_uri(re.sub(r"^([a-z][a-z0-9+.-]+):/(?!/)", r"\1://", str(path))):  # Path drops a slash
        raise PlanError(
            f"{path} is an address, and only local files are read here: download it and name the "
            "file, or use `leadline run`"
        )
    path = Path(path)
    rows = Rows(path)
    kind = rows.format()
    known = frozenset({*registry.names("domains"), *domains, default_domain})
    problems, invalid = StoredList[Problem](Problem), StoredList[Result](Result)
    order = StoredList[str](str)
    n_derived = 0
    settings = _RowSettings(require)
    guesses: dict[tuple[str, str], None] = {}
    for row in rows:
        order.append(row.id)
        guesses.update(dict.fromkeys(row.guess))
        kind = row.format if kind is Format.COPY else kind
        try:
            problems.append(_problem(row, default_domain, known, settings))
        except _Invalid as fault:
            invalid.append(_invalid(row, fault))
            continue
        n_derived += row.derived
    if not len(problems):
        raise PlanError(_nothing(path, invalid))
    warnings = (*guess_notes(path.name, guesses), *_warnings(path, n_derived, settings.ignored))
    rows_read = (problems.settled(), invalid.settled(), warnings, order.settled())
    file = ProblemFile(*rows_read, kind, path)
    return _first(file, limit, begun) if limit else file


def find_problem(
    path: str | Path, id: str, *, default_domain: str, domains: Collection[str] = (), limit: int = 0
) -> Problem | Result | None:
    """Return one problem of a file, or the result of its invalid row; None without such a row.

    Other arguments are those of `read_problems`. Rows after this one are not read.
    """
    path = Path(path)
    rows = islice(Rows(path), limit or None)
    row = next((row for row in rows if row.id == id), None)
    if row is None:
        return None
    try:
        known = {*registry.names("domains"), *domains, default_domain}
        return _problem(row, default_domain, known, _RowSettings())
    except _Invalid as fault:
        return _invalid(row, fault)


def _invalid(row: Row, fault: _Invalid) -> Result:
    error = f"{row.place}: {fault}"
    return Result(row.id, Status.INVALID, error=error, tags=_tags(row))


def _first(file: ProblemFile, limit: int, begun: Collection[str]) -> ProblemFile:
    kept = {*file.order[:limit], *begun}
    order = tuple(id for id in file.order if id in kept)
    problems = tuple(p for p in file.problems if p.id in kept)
    if not problems:
        raise PlanError(
            f"none of the first {limit} rows is a valid problem; the first: {file.invalid[0].error}"
        )
    invalid = tuple(r for r in file.invalid if r.problem_id in kept)
    return replace(file, problems=problems, invalid=invalid, order=order, limit=limit)


def problem_from_row(
    fields: Mapping[str, Any], default_domain: str, domains: Collection[str] = ()
) -> Problem:
    """Return the problem of one row given as a mapping, read as a row of a file would be.

    PlanError when it is invalid.
    """
    row = row_from(fields)
    try:
        known = {*registry.names("domains"), *domains, default_domain}
        return _problem(row, default_domain, known, _RowSettings())
    except _Invalid as fault:
        raise PlanError(f"problem {row.id or dict(fields)!r}: {fault}") from fault


def guess_notes(name: str, guesses: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield what was guessed about the columns of a file, for the user to check."""
    for field, column in guesses:
        yield f"{name}: the column {column!r} is read as {field!r}; columns.{field} names another"


def _warnings(path: Path, n_derived: int, ignored: Counter[str]) -> Iterable[str]:
    if n_derived:
        yield (
            f"{path.name}: {n_derived} rows have no id; theirs are derived from their prompts, "
            "and change when a prompt changes"
        )
    if ignored:
        names = ", ".join(sorted(ignored))
        yield (
            f"{path.name}: {names} in up to {max(ignored.values())} rows have no effect; the plan "
            "decides"
        )


def _nothing(path: Path, invalid: Sequence[Result]) -> str:
    if not len(invalid):
        return f"{path} contains no rows; write one problem per line"
    listed = "".join(f"\n  {result.error}" for result in invalid[:3])
    more = f"\n  and {len(invalid) - 3} more" if len(invalid) > 3 else ""
    return f"{path}: none of its {len(invalid)} rows is a valid problem:{listed}{more}"


class _RowSettings:
    """Reads what the bodies of rows set; `ignored` counts the fields without effect."""

    def __init__(self, require: Requirement | None = None) -> None:
        self.ignored: Counter[str] = Counter()
        self._require = require
        self._faults: dict[str, str] = {}  # by settings; "" for none

    def read(self, body: Mapping[str, Any]) -> str:
        """Return the settings of a row as its problem has them."""
        try:
            settings, ignored = settings_of(body)
            encoded = settings.encoded()
        except (ValueError, TypeError) as error:
            raise _Invalid(str(error)) from error
        if encoded not in self._faults:
            self._faults[encoded] = self._fault(settings)
        if self._faults[encoded]:
            raise _Invalid(f"its body sets what cannot be honoured: {self._faults[encoded]}")
        self.ignored.update(ignored)
        return encoded

    def _fault(self, settings: Settings) -> str:
        try:
            keys.read_section("sampling", settings.sampling)
            if self._require is not None:
                self._require(settings)
        except PlanError as error:
            return str(error)
        return ""


def _problem(
    row: Row, default_domain: str, known: Collection[str], settings: _RowSettings
) -> Problem:
    if row.error:
        raise _Invalid(row.error)
    body = row.fields.get("body")
    own = settings.read(body) if isinstance(body, dict) else ""
    domain = row.fields.get("domain", default_domain)
    if not isinstance(domain, str) or domain not in known:
        hint = registry.near(str(domain), known)
        raise _Invalid(
            f"there is no domain {domain!r}{hint}; there are: {', '.join(sorted(known))}"
        )
    return Problem(row.id, _prompt(row.fields), domain, _tags(row), own)


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if prompt is None and messages is None:
        raise _Invalid(no_question(fields))
    if prompt is not None and messages is not None:
        raise _Invalid("it has both 'prompt' and 'messages'; keep one")
    if prompt is None:
        return _messages(messages)
    if not isinstance(prompt, str):
        raise _Invalid(f"its prompt is {_kind(prompt)}; it must be a text")
    if not prompt.strip():
        raise _Invalid("its prompt is empty")
    return prompt


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):  # a CSV cell holds JSON
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _Invalid(f"its messages are not JSON: {error}") from error
    if not isinstance(value, list) or not value:
        raise _Invalid(
            f"its messages are {_kind(value)}; they must be a list of at least one message"
        )
    messages = tuple(_message(item, f"message {i}") for i, item in enumerate(value, start=1))
    if not any(message.content.strip() for message in messages):
        raise _Invalid("all its messages are empty")
    return messages


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict):
        raise _Invalid(
            f"{where} is {_kind(item)}; a message is an object with 'role' and 'content'"
        )
    # OpenAI's newer word for the same thing
    role = "system" if item.get("role") == "developer" else item.get("role")
    if role not in _ROLES:
        raise _Invalid(
            f"{where} has the role {role!r}{registry.near(str(role), _ROLES)}; there are: "
            f"{', '.join(_ROLES)}"
        )
    extra = next(
        (
            name
            for name, value in item.items()
            if name not in ("role", "content") and value not in (None, [], "")
        ),
        None,
    )
    if extra is not None:
        raise _Invalid(f"{where} has {extra!r}, which is not supported; remove it")
    content = item.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise _Invalid(
            f"{where} has "
            f"{'no content' if content is None else f'{_kind(content)} as content'}; "
            "it must be a text"
        )
    return Message(role, content)


def _part(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = part.get("type") if isinstance(part, dict) else _kind(part)
    raise _Invalid(f"{where} has a part that is not text ({what}); Leadline supports text only")


def _tags(row: Row) -> str:
    rest = {name: value for name, value in row.fields.items() if name not in _OWN_FIELDS}
    if not rest.get("body", True):
        del rest["body"]
    try:
        return msgspec.json.encode(rest).decode()
    except (TypeError, ValueError) as error:  # a Parquet value that JSON has no form for
        raise _Invalid(f"a field beside its question cannot be kept as JSON: {error}") from error


_NAMES: Mapping[type, str] = {
    type(None): "nothing",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def _kind(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__) if value != [] else "an empty list"
