"""The output of an OpenAI batch: results become its lines, in one file or apart from the errors.

Not covered: reading rows (`body`), and what an attempt looks like (`choices`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from orchestrator.core.lineage import lineage, whole
from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, Result, Status, Trace
from orchestrator.core.votes import VOTING
from orchestrator.jobs.files import write_parts_atomically
from orchestrator.jobs.openai_batch.body import COMPLETIONS
from orchestrator.jobs.openai_batch.choices import choice_of, usage_counts

if TYPE_CHECKING:
    from orchestrator.jobs.job import Job

JSON: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class _Body:
    n: int | None = None


@dataclass(frozen=True, slots=True)
class _Tags:
    """The fields of a row that its output depends on."""

    body: _Body = _Body()
    url: str = ""


def write_batch_output(job: Job, plan: Plan) -> Path:
    """Write a job's results as the output of an OpenAI batch and return the file's path.

    The file is replaced in one step. JournalError when the write fails.
    """
    path = job.directory / "batch_output.jsonl"
    write_parts_atomically(path, (_encoded(line) for line in _lines(job, plan)))
    return path


def write_split_output(job: Job, plan: Plan, output: Path, errors: Path) -> tuple[int, int]:
    """Write the lines of answered rows to one file and those of the others to another one.

    Returns how many lines each has. Each file is replaced in one step, and JournalError when a
    write fails.
    """
    counts = []
    for path, is_error in ((output, False), (errors, True)):
        lines = [line for line in _lines(job, plan) if (line["error"] is not None) is is_error]
        write_parts_atomically(path, map(_encoded, lines))
        counts.append(len(lines))
    return counts[0], counts[1]


def _lines(job: Job, plan: Plan) -> Iterator[JSON]:
    for result in job.iter_results():
        attempts = returned_attempts(job.journal.pool(result.problem_id), result)
        yield output_line(result, attempts, _model_name(plan, attempts))


def _model_name(plan: Plan, attempts: Sequence[Trace]) -> str:
    """Return the model of the chosen attempt: an adapter by the name of its pool."""
    pool = attempts[0].model if attempts and attempts[0].model in plan.models else ""
    pool = pool or plan.default_model
    return pool if plan.models[pool].lora else plan.models[pool].path


def _encoded(line: JSON) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def returned_attempts(pool: Sequence[Trace], result: Result) -> list[Trace]:
    """Return the attempts that a row gets back, each with the text of its whole lineage.

    First the lowest one with the winning answer, or, if none gave an answer, the first with a text.
    A row with `n` gets up to n attempts, the others by ordinal.
    """
    by_ordinal = {t.ordinal: t for t in pool}
    attempts = _attempts(pool, by_ordinal)
    chosen = result.clusters[0].ordinals[:1] if result.clusters else attempts[:1]
    n = msgspec.json.decode(result.tags, type=_Tags).body.n or 1
    return _first((*chosen, *attempts), by_ordinal, n)


def best_attempts(pool: Sequence[Trace], result: Result, n: int) -> list[Trace]:
    """Return up to `n` attempts, the leading classes first, each with the text of its lineage.

    Of each class of answers the lowest attempt that came to its end by itself, else the lowest;
    then the other attempts by ordinal.
    """
    by_ordinal = {t.ordinal: t for t in pool}
    heads = [
        min(known, key=lambda o: (by_ordinal[o].finish is not Finish.STOP, o))
        for cluster in result.clusters
        if (known := [o for o in cluster.ordinals if o in by_ordinal])
    ]
    return _first((*heads, *_attempts(pool, by_ordinal)), by_ordinal, n)


def _attempts(pool: Sequence[Trace], by_ordinal: Mapping[int, Trace]) -> list[int]:
    """Return the ordinals of attempts with a text or a call, by their last traces."""
    continued = {t.parent for t in pool}
    ends = [t.ordinal for t in pool if t.ordinal not in continued and not t.lost]
    return sorted(o for o in ends if _is_attempt(by_ordinal[o]))


def _is_attempt(trace: Trace) -> bool:
    return trace.purpose in VOTING and bool(trace.text or trace.calls)


def _first(ordinals: Iterable[int], by_ordinal: Mapping[int, Trace], n: int) -> list[Trace]:
    known = (o for o in dict.fromkeys(ordinals) if o in by_ordinal)
    return [whole(lineage(by_ordinal[o], by_ordinal)) for o in itertools.islice(known, n)]


def output_line(result: Result, attempts: Sequence[Trace], model: str) -> JSON:
    """Return a result as one line of an OpenAI batch's output, each attempt as a choice.

    The reply of an attempt is the message's `content`, its thinking, if it has any, the
    message's `reasoning_content`, its calls the `tool_calls`; `finish_reason` is "length" if it was
    cut off by length, and else "tool_calls" if there are any. Rows for /v1/completions get `text`
    instead of a message. `logprobs` are those of all tokens that were generated, the thinking
    included. A problem that was invalid or failed has an `error` and no `response`. In addition to
    OpenAI's fields the body has `leadline`: the answer, its share of the votes (traces that agree,
    of those that gave an answer; None without votes), and the status. Ids are derived from the
    result, so equal results have equal lines; `created` is 0, because a result records durations
    but no date.
    """
    digest = hashlib.blake2b(
        f"{result.fingerprint}:{result.problem_id}".encode(), digest_size=12
    ).hexdigest()
    line: JSON = {
        "id": f"batch_req_{digest}",
        "custom_id": result.problem_id,
        "response": None,
        "error": None,
    }
    if result.status in (Status.INVALID, Status.FAILED):
        return {**line, "error": {"code": result.status.value, "message": result.error}}
    is_chat = msgspec.json.decode(result.tags, type=_Tags).url != COMPLETIONS
    body = {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{digest}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": index, **choice_of(attempt, is_chat)}
            for index, attempt in enumerate(attempts or [Trace(0)])
        ],
        "usage": usage_counts(result),
        "leadline": _extension(result),
    }
    return {**line, "response": {"status_code": 200, "request_id": f"req_{digest}", "body": body}}


def _extension(result: Result) -> JSON:
    n_votes = sum(cluster.count for cluster in result.clusters)
    return {
        "answer": None if result.answer is None else result.answer.text,
        "share": result.clusters[0].count / n_votes if n_votes else None,
        "status": result.status.value,
    }
