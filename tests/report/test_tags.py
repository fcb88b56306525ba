"""The tags by which accuracy is broken down."""

from __future__ import annotations

import json

from orchestrator.core.values import Result, Status
from orchestrator.report.tags import accuracy_by_tag


def test_members_of_an_object_are_tags() -> None:
    """Rows of the shipped puzzles have {"tags": {"hops": "6"}}, which names the worst group."""
    results = [
        Result(str(i), Status.ANSWERED, tags=json.dumps({"tags": {"hops": str(i % 2)}, "list": []}))
        for i in range(6)
    ]
    found = accuracy_by_tag(results, {str(i): i % 2 == 0 for i in range(6)})
    values = [(one.tag, one.value, one.accuracy.value) for one in found]
    assert values == [("tags.hops", "0", 1.0), ("tags.hops", "1", 0.0)]
