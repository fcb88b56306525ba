"""The worked examples of a plan: read from any place, and kept in the directory of a job.

The one rule: a plan that runs has its examples and their digest, so that its fingerprint covers
what every prompt contains. A row that is no example is an error of the plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Example, Plan
from orchestrator.core.values import Message
from orchestrator.jobs.files import write_parts_atomically
from orchestrator.jobs.rows.content.media import FIELD
from orchestrator.jobs.rows.content.messages import MessageFault, messages_of
from orchestrator.jobs.rows.reading import Row, Rows
from orchestrator.kit.prompts import chat_messages
from orchestrator.plan.file.sources import STANDARD_INPUT, placed
from orchestrator.plan.keys import Columns, read_section

COPY_FILE = "few-shot.jsonl"  # in the directory of a job
_KEY = "few_shot.file"
_SPARE = 100  # rows that are read beyond the first n, for problems that are among these


def with_examples(plan: Plan) -> Plan:
    """Return the plan with the examples of its file, if it names one.

    PlanError when they cannot be read, are too few, or are others than the plan was run with.
    """
    few_shot = plan.few_shot
    if not few_shot.file or few_shot.examples:
        return plan
    if few_shot.file == STANDARD_INPUT:
        raise PlanFault(_KEY, f"{_KEY} = '-': only problems are read from standard input")
    columns = Columns(**read_section("columns", dict(few_shot.columns), "few_shot.columns"))
    rows = iter(Rows(placed(few_shot.file, None), columns))
    is_first = few_shot.choice == "first"
    chosen = islice(rows, 2 * few_shot.n + _SPARE if is_first else None)
    examples = tuple(_example(row, bool(few_shot.template)) for row in chosen)
    if len(examples) < few_shot.n:
        raise PlanFault(
            "few_shot.n",
            f"few_shot.n = {few_shot.n}, and {few_shot.file} has {len(examples)} examples; lower "
            "it, or name a file with more",
        )
    content = hashlib.blake2b(msgspec.json.encode(examples), digest_size=8).hexdigest()
    if few_shot.content not in ("", content):
        raise PlanFault(
            _KEY,
            f"{few_shot.file} has other examples than the plan was run with (few_shot.content); "
            "put them back, or start another job",
        )
    return replace(plan, few_shot=replace(few_shot, content=content, examples=examples))


def write_examples(directory: Path, plan: Plan) -> None:
    """Keep a plan's examples in the directory of a job; JournalError when the write fails."""
    if plan.few_shot.examples:
        rows = (msgspec.json.encode(_fields(e)) + b"\n" for e in plan.few_shot.examples)
        write_parts_atomically(directory / COPY_FILE, rows)


def as_kept(plan: Plan, directory: Path | None = None) -> Plan:
    """Return a plan that names the copy of its examples: by its path, or as in its plan file."""
    if not plan.few_shot.content:
        return plan
    file = COPY_FILE if directory is None else str(directory / COPY_FILE)
    return replace(plan, few_shot=replace(plan.few_shot, file=file, columns={}))


def with_kept_examples(plan: Plan, directory: Path) -> Plan:
    """Return the plan of a job with its examples; without them where there is no copy."""
    if not (directory / COPY_FILE).is_file():
        return plan
    return with_examples(as_kept(plan, directory))


def _fields(example: Example) -> Mapping[str, object]:
    prompt, reply = example.prompt, example.reply
    if not isinstance(reply, str):
        before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        return {"id": example.id, "messages": chat_messages((*before, reply))}
    question = (
        {"prompt": prompt} if isinstance(prompt, str) else {"messages": chat_messages(prompt)}
    )
    return {"id": example.id, **question, "answer": reply}


def _example(row: Row, as_text: bool) -> Example:
    if row.error:
        raise PlanFault(_KEY, f"{row.place}: {row.error}")
    fields = row.fields
    if fields.get(FIELD):
        raise PlanFault(
            _KEY, f"{row.place}: images of examples belong into messages, not into a column"
        )
    answer, prompt = _text(fields.get("answer")), fields.get("prompt")
    reply: str | Message = answer
    if prompt is None:
        prompt, reply = _conversation(row, answer)
        if as_text and (len(_questions(prompt)) != 1 or not isinstance(reply, str)):
            raise PlanFault(
                "few_shot.template",
                f"{row.place}: few_shot.template has place for one question and its answer, and "
                "this conversation has more; leave the template out",
            )
    if not isinstance(prompt, str | tuple) or not prompt:
        raise PlanFault(_KEY, f"{row.place}: its prompt is no text; an example needs a question")
    if not reply:
        raise PlanFault(
            _KEY,
            f"{row.place}: it has no answer, which an example needs; name its column with "
            "few_shot.columns.answer",
        )
    return Example(row.id, prompt, reply)


def _questions(messages: tuple[Message, ...]) -> list[Message]:
    return [message for message in messages if message.role != "system"]


def _conversation(row: Row, reply: str) -> tuple[tuple[Message, ...], str | Message]:
    """Return the messages before the reply; without an answer, that is the last message."""
    try:
        messages = messages_of(row.fields.get("messages"))
    except MessageFault as fault:
        raise PlanFault(_KEY, f"{row.place}: {fault}") from fault
    if not reply and messages and messages[-1].role == "assistant":
        *before, last = messages
        return tuple(before), last if last.calls else last.content
    return messages, reply


def _text(value: object) -> str:
    """Return an answer as text; of several that are right, the first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError) as error:
        raise PlanError(f"{_KEY}: an answer cannot be written as text: {error}") from error
