"""The OpenAI batch format: its rows become fields of a problem, results become lines of its output.

Requests in a row that its output could not honour are refused here. `orchestrator.jobs.problems`
builds problems from the fields, as for every other format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from orchestrator.core.lineage import lineage, whole
from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, Purpose, Result, Status, Trace, Usage
from orchestrator.jobs.files import write_parts_atomically
from orchestrator.kit.answers.thinking import Split, parts_of, split

if TYPE_CHECKING:
    from orchestrator.jobs.job import Job

JSON: TypeAlias = dict[str, object]
_PROMPT_FIELDS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}

# What the body of a row may not set, since its output would then not be what was requested; and
# the values that request nothing.
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    # vLLM's dialects of constrained output
    "guided_json": (),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "structured_outputs": ({},),
    "structural_tag": ("",),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "modalities": (["text"],),
    "audio": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
}
_REMEDIES = dict.fromkeys(
    ("n", "best_of"), "the plan's strategy decides how many traces are sampled; remove it"
)


def is_batch_row(row: Mapping[str, Any]) -> bool:
    """Return whether a JSON row is one of an OpenAI batch."""
    return {"custom_id", "body"} <= row.keys()


def problem_fields(row: Mapping[str, Any]) -> tuple[JSON, str]:
    """Return a row's fields as a problem has them, and why the row is invalid ("" when it is not).

    `prompt` or `messages` is added to the row's top-level fields; the rest of its body is under
    `body`.
    """
    method, url, body = row.get("method", "POST"), row.get("url"), row.get("body")
    fields: JSON = {
        name: value
        for name, value in row.items()
        if name not in ("custom_id", "method", "url", "body")
    }
    if "custom_id" in row:
        fields["id"] = row["custom_id"]
    if method != "POST":
        return fields, f"its method is {method!r}; Leadline answers POST"
    question = _PROMPT_FIELDS.get(str(url))
    if question is None:
        return fields, f"its url is {url!r}; Leadline answers {' and '.join(_PROMPT_FIELDS)}"
    if not isinstance(body, dict):
        return fields, "its body is missing or not an object"
    body = {name: value for name, value in body.items() if value is not None}
    if question not in body:
        return fields, f"its body has no {question!r}"
    return {**fields, question: body.pop(question), "body": body}, ""


def refusal(body: Mapping[str, Any]) -> str:
    """Return why a row cannot be answered as its body requests; "" when it can."""
    extra = body.get("extra_body")  # where clients put what their library does not know
    body = {**body, **extra} if isinstance(extra, Mapping) else body
    for name, harmless in _REFUSED.items():
        if name in body and body[name] not in harmless:
            remedy = _REMEDIES.get(name, "Leadline does not support it; remove it")
            return f"its body sets {name!r}; {remedy}"
    return ""


def write_batch_output(job: Job, plan: Plan) -> Path:
    """Write a job's results as the output of an OpenAI batch and return the file's path.

    The file is replaced in one step. JournalError when the write fails.
    """
    path = job.directory / "batch_output.jsonl"
    model = plan.models[plan.default_model].path
    lines = (
        output_line(r, chosen_attempt(job.journal.pool(r.problem_id), r), model)
        for r in job.iter_results()
    )
    write_parts_atomically(path, (msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def chosen_attempt(pool: Sequence[Trace], result: Result) -> Trace | None:
    """Return the lowest trace with the winning answer, with the text of its whole lineage.

    If no trace gave an answer, it is the first attempt with a text; None without any.
    """
    by_ordinal = {t.ordinal: t for t in pool}
    attempts = sorted(t.ordinal for t in pool if t.purpose is Purpose.SOLVE and t.text)
    chosen = result.clusters[0].ordinals if result.clusters else attempts
    if not chosen or chosen[0] not in by_ordinal:
        return None
    return whole(lineage(by_ordinal[chosen[0]], by_ordinal))


def output_line(result: Result, attempt: Trace | None, model: str) -> JSON:
    """Return a result as one line of an OpenAI batch's output.

    The reply of the chosen `attempt` is the message's `content`, its thinking, if it has any, the
    message's `reasoning_content`; `finish_reason` is "length" if it was cut off by length. A
    problem that was invalid or failed has an `error` and no `response`. In addition to OpenAI's
    fields the body has `leadline`: the answer, its share of the votes (traces that agree, of those
    that gave an answer; None without votes), and the status. Ids are derived from the result, so
    equal results have equal lines; `created` is 0, because a result records durations but no date.
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
    body = {
        "id": f"chatcmpl-{digest}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": _message(split("") if attempt is None else parts_of(attempt)),
                "logprobs": None,
                "finish_reason": "length"
                if attempt and attempt.finish is Finish.LENGTH
                else "stop",
            }
        ],
        "usage": _usage(result),
        "leadline": _extension(result),
    }
    return {**line, "response": {"status_code": 200, "request_id": f"req_{digest}", "body": body}}


def _message(attempt: Split) -> JSON:
    content = attempt.reply_text.strip() if attempt.thinking else attempt.text
    message: JSON = {"role": "assistant", "content": content, "refusal": None}
    return message | ({"reasoning_content": attempt.thinking_text} if attempt.thinking else {})


def _usage(result: Result) -> JSON:
    total = sum(result.usage.values(), Usage())
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.output_tokens,
        "total_tokens": total.prompt_tokens + total.output_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning_tokens},
    }


def _extension(result: Result) -> JSON:
    n_votes = sum(cluster.count for cluster in result.clusters)
    return {
        "answer": None if result.answer is None else result.answer.text,
        "share": result.clusters[0].count / n_votes if n_votes else None,
        "status": result.status.value,
    }
