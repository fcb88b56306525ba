"""From a file of rows to Problems: prompts and messages, domains, tags.

An invalid row becomes a Result of status INVALID that names file and line, and the rest continues;
a file without any valid row is a PlanError. Reference answers are dropped here;
`orchestrator.studies.evaluate` reads them by the same ids. `orchestrator.jobs.rows` handles
formats, encodings and ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Settings
from orchestrator.core.values import Media, Problem, Prompt, Result, Status, media_of
from orchestrator.jobs.openai_batch import NO_POOLS, settings_of
from orchestrator.jobs.rows import Format, Row, Rows, no_question, row_from
from orchestrator.jobs.rows.content.media import FIELD as MEDIA
from orchestrator.jobs.rows.content.messages import (
    MessageFault,
    column_media,
    kind_of,
    messages_of,
)
from orchestrator.jobs.rows.stored import StoredList
from orchestrator.plan import keys, registry
from orchestrator.plan.check import RowRequirement
from orchestrator.plan.file.sources import is_uri

_OWN_FIELDS = ("prompt", "messages", MEDIA, "domain", "answer")


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
    override: bool = True  # whether rows may override the plan

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
    require: RowRequirement | None = None,
    override: bool = True,
    pools: Mapping[str, str] = NO_POOLS,
) -> ProblemFile:
    """Return the problems of a file: of its first `limit` rows, and those with an id in `begun`.

    With limit 0 all rows count. `default_domain` is for rows that name none; `domains` are names
    that rows may use in addition to the installed domains (a plan's own). OpenAI batch rows have
    settings of their own; `require` raises PlanError for those that the job cannot honour, and a
    warning names fields that have no effect; without `override` all have none, or make their row
    invalid, and `pools` are those that a row can choose by its model (`jobs.openai_batch`).
    PlanError when the file cannot be read or no row is
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
    settings = _RowSettings(require, override, pools)
    guesses: dict[tuple[str, str], None] = {}
    for number, row in enumerate(rows, start=1):
        if 0 < limit < number and row.id not in begun:
            continue
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
        raise PlanError(_nothing(path, invalid, limit))
    warnings = (*guess_notes(path.name, guesses), *_warnings(path, n_derived, settings.ignored))
    rows_read = (problems.settled(), invalid.settled(), warnings, order.settled())
    return ProblemFile(*rows_read, kind, path, limit, override=override)


def find_problem(
    path: str | Path,
    id: str,
    *,
    default_domain: str,
    domains: Collection[str] = (),
    limit: int = 0,
    override: bool = True,
    pools: Mapping[str, str] = NO_POOLS,
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
        return _problem(row, default_domain, known, _RowSettings(None, override, pools))
    except _Invalid as fault:
        return _invalid(row, fault)


def _invalid(row: Row, fault: _Invalid) -> Result:
    error = f"{row.place}: {fault}"
    return Result(row.id, Status.INVALID, error=error, tags=_tags(row))


def problem_from_row(
    row: Row | Mapping[str, Any],
    default_domain: str,
    domains: Collection[str] = (),
    require: RowRequirement | None = None,
    pools: Mapping[str, str] = NO_POOLS,
) -> Problem:
    """Return the problem of one row, or of a mapping, read as a row of a file would be.

    `pools` as in `read_problems`. PlanError when it is invalid, or when `require` refuses it.
    """
    row = row if isinstance(row, Row) else row_from(row)
    try:
        known = {*registry.names("domains"), *domains, default_domain}
        return _problem(row, default_domain, known, _RowSettings(require, pools=pools))
    except _Invalid as fault:
        raise PlanError(f"problem {row.id or dict(row.fields)!r}: {fault}") from fault


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


def _nothing(path: Path, invalid: Sequence[Result], limit: int) -> str:
    if not len(invalid):
        return f"{path} contains no rows; write one problem per line"
    listed = "".join(f"\n  {result.error}" for result in invalid[:3])
    more = f"\n  and {len(invalid) - 3} more" if len(invalid) > 3 else ""
    rows = f"the first {limit}" if limit else f"its {len(invalid)}"
    return f"{path}: none of {rows} rows is a valid problem:{listed}{more}"


class _RowSettings:
    """Reads what the bodies of rows set; `ignored` counts the fields without effect."""

    def __init__(
        self,
        require: RowRequirement | None = None,
        override: bool = True,
        pools: Mapping[str, str] = NO_POOLS,
    ) -> None:
        self._override, self._pools = override, pools
        self.ignored: Counter[str] = Counter()
        self._require = require
        self._faults: dict[tuple[str, frozenset[str]], str] = {}  # "" for none

    def read(self, body: Mapping[str, Any], media: Sequence[Media]) -> str:
        """Return the settings of a row as its problem has them; `media` are what it shows."""
        try:
            settings, ignored = settings_of(body, override=self._override, pools=self._pools)
            encoded = settings.encoded()
        except (ValueError, TypeError) as error:
            raise _Invalid(str(error)) from error
        key = encoded, frozenset(one.modality for one in media)
        if key not in self._faults:
            self._faults[key] = self._fault(settings, key[1])
        if self._faults[key]:
            raise _Invalid(self._faults[key])
        self.ignored.update(ignored)
        return encoded

    def _fault(self, settings: Settings, kinds: frozenset[str]) -> str:
        """Return what of a row cannot be honoured, or ""."""
        try:
            keys.read_section("sampling", settings.sampling)
            if self._require is not None:
                self._require(settings, kinds)
        except PlanError as error:
            if isinstance(error, PlanFault) and error.key == "messages":
                return str(error)
            return f"its body sets what cannot be honoured: {error}"
        return ""


def _problem(
    row: Row, default_domain: str, known: Collection[str], settings: _RowSettings
) -> Problem:
    if row.error:
        raise _Invalid(row.error)
    domain = row.fields.get("domain", default_domain)
    if not isinstance(domain, str) or domain not in known:
        hint = registry.near(str(domain), known)
        raise _Invalid(
            f"there is no domain {domain!r}{hint}; there are: {', '.join(sorted(known))}"
        )
    prompt, media = _prompt(row.fields), _media(row.fields)
    if media and not isinstance(prompt, str):
        raise _Invalid("it has messages and an image column; put its images into the messages")
    body, shown = row.fields.get("body"), (*media, *media_of(prompt))
    request = body if row.format is Format.OPENAI_BATCH and isinstance(body, dict) else {}
    own = settings.read(request, shown) if request or shown else ""
    return Problem(row.id, prompt, domain, _tags(row), own, media)


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if prompt is None and messages is None:
        raise _Invalid(no_question(fields))
    if prompt is not None and messages is not None:
        raise _Invalid("it has both 'prompt' and 'messages'; keep one")
    if prompt is None:
        try:
            return messages_of(messages)
        except MessageFault as fault:
            raise _Invalid(str(fault)) from fault
    if not isinstance(prompt, str):
        raise _Invalid(f"its prompt is {kind_of(prompt)}; it must be a text")
    if not prompt.strip():
        raise _Invalid("its prompt is empty")
    return prompt


def _media(fields: Mapping[str, Any]) -> tuple[Media, ...]:
    try:
        return column_media(fields.get(MEDIA, []))
    except MessageFault as fault:
        raise _Invalid(str(fault)) from fault


def _tags(row: Row) -> str:
    rest = {name: value for name, value in row.fields.items() if name not in _OWN_FIELDS}
    if not rest.get("body", True):
        del rest["body"]
    try:
        return msgspec.json.encode(rest).decode()
    except (TypeError, ValueError) as error:  # a Parquet value that JSON has no form for
        raise _Invalid(f"a field beside its question cannot be kept as JSON: {error}") from error
