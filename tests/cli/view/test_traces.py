"""Traces as `leadline solve --show-traces` prints them: the thinking apart from the reply."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.cli.view.tables import print_traces
from orchestrator.core.values import Finish, Trace, Usage
from orchestrator.report.tables.rows import trace_row

THOUGHT = Trace(
    0,
    "<think>6*7</think>It is 42.",
    usage=Usage(output_tokens=1200, reasoning_tokens=900),
    thinking_spans=((7, 10),),
    reply_spans=((18, 27),),
)


def printed(*traces: Trace) -> list[str]:
    out = io.StringIO()
    print_traces(Console(file=out, width=80), traces)
    return [line.strip("─ ") for line in out.getvalue().splitlines()]


def test_thinking_is_printed_before_the_reply() -> None:
    assert printed(THOUGHT) == [
        "trace 0 · stop · 1,200 tokens, 900 of thinking · no answer",
        "thinking",
        "6*7",
        "reply",
        "It is 42.",
    ]


@pytest.mark.parametrize(
    ("trace", "lines"),
    [
        (Trace(0, "It is 42."), ["It is 42."]),
        (Trace(0, ""), ["(no text)"]),
        (Trace(0, "<think>6*", finish=Finish.LENGTH), ["thinking", "6*", "(no reply)"]),
        (Trace(0, "<think>6*7</think>42"), ["thinking", "6*7", "reply", "42"]),  # of an earlier job
    ],
)
def test_what_is_missing_is_named(trace: Trace, lines: list[str]) -> None:
    assert printed(trace)[1:] == lines


def test_json_has_texts_instead_of_spans() -> None:
    row = trace_row(THOUGHT)
    assert (row["thinking"], row["reply"]) == ("6*7", "It is 42.")
    assert not {"thinking_spans", "reply_spans"} & row.keys()
