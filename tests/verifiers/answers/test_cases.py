"""The suite of answers in `cases/`: pairs that are one answer or two, and what a reply states.

One file for each part of the table of equality in docs/answers.md, `readings.jsonl` for replies,
and `reported.jsonl` for what users reported. A case has `domain` and `kind`. `equivalent`: `a` and
`b` are one answer exactly if `right`. `extract`: the domain reads the answer `right`, in any of its
spellings, or abstains if it is null.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.protocols import Domain
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry

_FOLDER = Path(__file__).parent / "cases"
_DOCS = Path(__file__).resolve().parents[3] / "docs" / "answers.md"
CASES: list[dict[str, Any]] = [
    json.loads(line)
    for file in sorted(_FOLDER.glob("*.jsonl"))
    for line in file.read_text(encoding="utf-8").splitlines()
]
PAIRS = [case for case in CASES if case["kind"] == "equivalent"]
READINGS = [case for case in CASES if case["kind"] == "extract"]


@cache
def domain(name: str) -> Domain:
    loaded: Domain = registry.load("domains", PluginSpec(name))
    return loaded


def parts(cases: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the cases by the part of their ids before the last number: `numbers-fraction`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        found.setdefault(case["id"].rpartition("-")[0] or case["id"], []).append(case)
    return found


@pytest.mark.parametrize("part", parts(PAIRS))
def test_two_answers_are_one_exactly_if_they_mean_the_same(part: str) -> None:
    """Asked in both directions: a vote must not depend on which answer comes first."""
    wrong = []
    for case in parts(PAIRS)[part]:
        equivalent = domain(case["domain"]).equivalent
        verdicts = equivalent(case["a"], case["b"]), equivalent(case["b"], case["a"])
        if verdicts != (case["right"], case["right"]):
            wrong.append((case, verdicts))
    assert not wrong


@pytest.mark.parametrize("part", parts(READINGS))
def test_a_reply_is_read_as_what_it_states(part: str) -> None:
    """A wrong reading is a wrong vote; an abstention only one vote less."""
    wrong = []
    for case in parts(READINGS)[part]:
        reader, right = domain(case["domain"]), case["right"]
        answer = reader.extract(case["text"], case["finished"])
        if right is None or answer is None:
            is_right = answer == right
        else:
            is_right = reader.equivalent(answer, right)
        if not is_right:
            wrong.append((case, answer))
    assert not wrong


def types() -> list[str]:
    """Return the first column of the table of equality in the documentation."""
    rows = [line.split("|") for line in _DOCS.read_text(encoding="utf-8").splitlines()]
    head = next(i for i, row in enumerate(rows) if row[1:2] == [" type "])
    end = next(i for i in range(head, len(rows)) if len(rows[i]) < 2)
    return [row[1].strip() for row in rows[head + 2 : end]]


def test_the_suite_covers_every_type_and_tells_apart_as_much_as_it_unites() -> None:
    """A domain that calls all answers one, or all different, must fail in every part."""
    assert len({case["id"] for case in CASES}) == len(CASES) >= 450
    own = [case for case in PAIRS if "row" in case]
    assert {case["row"] for case in own} == set(types())
    for row in types():
        verdicts = [case["right"] for case in own if case["row"] == row]
        assert min(verdicts.count(True), verdicts.count(False)) >= 0.3 * len(verdicts), row
    assert sum(not case["right"] for case in own) >= 0.4 * len(own)
