"""The walk from a trace to the start of its attempt: its text, its tokens, its traces."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.lineage import lineage, output_tokens, whole, whole_text
from orchestrator.testing import trace


def test_a_lineage_runs_from_the_first_trace_to_the_last() -> None:
    """Its text and tokens are those of the whole attempt, without siblings."""
    first = replace(trace(0, tokens=3), text="One. ")
    sibling = replace(trace(1, parent=0, tokens=50), text="Other.")
    last = replace(trace(2, parent=0, tokens=4), text="Two.")
    links = lineage(last, {t.ordinal: t for t in (first, sibling, last)})
    assert links == [first, last]
    assert whole_text(links) == "One. Two."
    assert output_tokens(links) == 7


def test_a_lineage_begins_where_its_parent_is_unknown() -> None:
    """An inner exploration may lack the parent; its first trace still names it."""
    last = trace(5, parent=3)
    assert lineage(last, {5: last}) == [last]
    assert lineage(last, {})[0].parent == 3


def test_a_whole_lineage_is_its_last_trace_with_all_thinking_and_reply() -> None:
    first = replace(trace(0), text="<think>a", thinking_spans=((7, 8),), reply_spans=())
    last = replace(trace(1, parent=0), text="b. c", reply_spans=((0, 2), (3, 4)))
    attempt = whole([first, last])
    assert (attempt.ordinal, attempt.text) == (1, "<think>ab. c")
    assert (attempt.thinking, attempt.reply) == ("a", "b.c")
