"""The rows of a job's problems and attempts: the one schema of every export and data frame.

A problem's row is its line of results.jsonl with what evaluation adds. Rows consist of JSON values
only. `columns` turns rows into a table: an object becomes a column for each of its members, named
`object.member`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from orchestrator.core.values import Prompt, Result, Trace
from orchestrator.jobs.job import result_row
from orchestrator.kit.answers.thinking import parts_of
from orchestrator.kit.prompts import chat_calls, chat_messages
from orchestrator.report.scored import (
    Attempt,
    ScoredJob,
    ScoredProblem,
    attempts_of,
    other_traces,
)

Row: TypeAlias = dict[str, Any]

_LARGEST_EXACT = 2**53  # integers up to it are exact as a float, which a column may need
# Members differ from row to row, so these objects become columns.
_OBJECTS = ("attempts", "usage", "tags", "metrics", "verdicts")
_JSON = ("votes",)  # lists of objects, also where all of them are empty


def problem_rows(job: ScoredJob) -> Iterator[Row]:
    """Yield a row for each problem that has a result, in the order of the problem file."""
    for problem in job.problems:
        if problem.result is not None:
            yield problem_row(problem)


def attempt_rows(job: ScoredJob) -> Iterator[Row]:
    """Yield a row for each attempt, problem by problem, by the ordinal of its last trace."""
    for problem in job.problems:
        for attempt in problem.attempts:
            yield attempt_row(problem.problem.id, attempt)


def problem_row(problem: ScoredProblem) -> Row:
    """Return the row of a problem that has a result."""
    assert problem.result is not None, problem.problem.id
    encoded = msgspec.json.encode(result_row(problem.result))
    row: Row = msgspec.json.decode(encoded)
    return {
        "id": row.pop("id"),
        "outcome": problem.outcome.value,
        "status": row.pop("status"),
        "right": problem.right,
        "answer": row.pop("answer"),
        "reference": problem.reference,
        **question_fields(problem.problem.prompt),
        "domain": problem.problem.domain,
        **row,
    }


def question_fields(prompt: Prompt) -> Row:
    """Return the question as a problem file has it: `prompt`, or `messages`; the other is None."""
    if isinstance(prompt, str):
        return {"prompt": prompt or None, "messages": None}
    return {"prompt": None, "messages": chat_messages(prompt)}


def attempt_row(problem_id: str, attempt: Attempt) -> Row:
    """Return the row of an attempt; its cost is that of all its traces."""
    trace, usage = attempt.trace, attempt.usage
    parts = parts_of(trace)
    return {
        "id": problem_id,
        "attempt": trace.ordinal,
        "state": attempt.state.value,
        "right": attempt.right,
        "answer": trace.answer.text if trace.answer else None,
        "key": trace.answer.key if trace.answer else None,
        "text": trace.text,
        "thinking": parts.thinking_text or None,
        "reply": parts.reply_text,
        "calls": chat_calls(trace.calls) or None,
        "finish": trace.finish.value,
        "purpose": trace.purpose.value,
        "model": trace.model or None,
        "depth": trace.depth,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "layer_tokens": usage.layer_tokens,
        "draft_layer_tokens": usage.draft_layer_tokens,
        "seconds": usage.seconds,
        "metrics": dict(trace.metrics),
        "verdicts": {verdict.verifier: verdict.score for verdict in trace.verdicts},
        "traces": list(attempt.traces),
        "note": trace.note or None,
        "error": trace.error or None,
    }


def attempts_json(pool: Sequence[Trace], result: Result) -> Row:
    """Return the attempts in a pool, as it arrived, and its other traces, for JSON."""
    rows = [attempt_row(result.problem_id, attempt) for attempt in attempts_of(pool, result)]
    return {"attempts": rows, "others": list(map(trace_row, other_traces(pool)))}


def trace_row(trace: Trace) -> Row:
    """Return a trace as it is, with its thinking and its reply as texts instead of spans."""
    parts = parts_of(trace)
    row: Row = msgspec.to_builtins(trace)
    del row["thinking_spans"], row["reply_spans"]
    return {**row, "thinking": parts.thinking_text, "reply": parts.reply_text}


def columns(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """Return rows as columns of equal length; a value that a row lacks is None.

    A column whose values are not all of one kind (booleans, numbers, texts, lists of whole numbers)
    contains them as JSON. So do lists of objects.
    """
    table: dict[str, list[Any]] = {}
    for n_before, row in enumerate(rows):
        for name, value in _flattened(row):
            if name not in table:
                table[name] = [None] * n_before
            table[name].append(value)
        for values in table.values():
            if len(values) == n_before:
                values.append(None)
    return {
        name: _as_json(values) if name in _JSON else _of_one_kind(values)
        for name, values in table.items()
    }


def _flattened(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name not in _OBJECTS:
            yield name, value
            continue
        for member, one in (value or {}).items():
            if name == "usage":  # of an account: its counts
                yield from ((f"usage.{member}.{count}", number) for count, number in one.items())
            else:
                yield f"{name}.{member}", one


def _of_one_kind(values: list[Any]) -> list[Any]:
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds) == 1 and "json" not in kinds:
        return values
    return _as_json(values)


def _as_json(values: list[Any]) -> list[Any]:
    return [None if value is None else msgspec.json.encode(value).decode() for value in values]


def _kind(value: object) -> str:
    if isinstance(value, bool | str):
        return type(value).__name__
    if isinstance(value, int):
        return "number" if abs(value) <= _LARGEST_EXACT else "json"
    if isinstance(value, float):
        return "number"
    if isinstance(value, list) and all(type(one) is int for one in value):
        return "integers"
    return "json"
