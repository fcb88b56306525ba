"""The tags of problems, by which accuracy is broken down.

Pure functions of results. Intervals come from `orchestrator.studies.evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.values import Result
from orchestrator.studies.estimates import Estimate, share_estimate

MOST_VALUES = 12  # of a tag that is shown without being named: more make no table


@dataclass(frozen=True, slots=True)
class TagAccuracy:
    """The accuracy of the problems whose tag has this value."""

    tag: str
    value: str
    accuracy: Estimate


def tag_values(results: Iterable[Result]) -> dict[str, dict[str, str]]:
    """Return tag -> problem id -> value as text; lists are left out, and objects in objects.

    A member of an object is a tag of its own: `source.name`.
    """
    values: dict[str, dict[str, str]] = {}
    for result in results:
        tags: dict[str, Any] = msgspec.json.decode(result.tags or "{}")
        for name, value in _members(tags):
            if isinstance(value, str | int | float):
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                values.setdefault(name, {})[result.problem_id] = text
    return values


def _members(tags: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in tags.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{member}", one) for member, one in value.items())
        else:
            yield name, value


def chosen_tags(
    values: Mapping[str, Mapping[str, str]], names: Sequence[str], n_problems: int
) -> dict[str, Mapping[str, str]]:
    """Return the tags in `names`; without names, those that divide the problems into few groups.

    Few: at least two values, at most MOST_VALUES, and at most half as many as problems. PlanError
    for a name that no problem has.
    """
    for name in names:
        if name not in values:
            known = f"it has {', '.join(sorted(values))}" if values else "its problems have no tags"
            raise PlanError(f"no problem of this job has the tag {name!r}; {known}")
    if names:
        return {name: values[name] for name in dict.fromkeys(names)}
    most = min(MOST_VALUES, n_problems // 2)
    return {name: one for name, one in values.items() if 2 <= len(set(one.values())) <= most}


def grouped(tag: Mapping[str, str], ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids by the value of their tag, in the order of the values.

    Numbers are in numeric order, before texts; ids without the tag are left out.
    """
    groups: dict[str, list[str]] = {}
    for id in ids:
        if id in tag:
            groups.setdefault(tag[id], []).append(id)
    return dict(sorted(groups.items(), key=lambda item: _place(item[0])))


def _place(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def accuracy_by_tag(
    results: Iterable[Result], right: Mapping[str, bool | None], names: Sequence[str] = ()
) -> list[TagAccuracy]:
    """Return the accuracy of each value of each tag; `right` is that of `studies.evaluate.score`.

    `names` as in `chosen_tags`.
    """
    tags = chosen_tags(tag_values(results), names, len(right))
    rows = []
    for name, tag in tags.items():
        for value, ids in grouped(tag, right).items():
            accuracy = share_estimate([bool(right[id]) for id in ids])
            if accuracy is not None:
                rows.append(TagAccuracy(name, value, accuracy))
    return rows
