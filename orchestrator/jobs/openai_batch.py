"""The OpenAI batch format: its rows become fields of a problem, results become lines of its output.

Requests in a row that its output could not honour are refused here. `orchestrator.jobs.problems`
builds problems from the fields, as for every other format.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from orchestrator.core.lineage import lineage, whole
from orchestrator.core.plan import Plan, Settings
from orchestrator.core.values import Finish, Result, Status, Trace, Usage
from orchestrator.core.votes import VOTING
from orchestrator.jobs.files import write_parts_atomically
from orchestrator.kit.answers.thinking import Split, parts_of, split

if TYPE_CHECKING:
    from orchestrator.jobs.job import Job

JSON: TypeAlias = dict[str, object]
_PROMPT_FIELDS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}

# Fields of a body that are keys of `[sampling]`, and those that `sampling.extra` takes: the engine
# says whether it can honour them.
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "thinking_token_budget": "thinking_tokens",
    "stop": "stop",
}
_EXTRA = {
    *("presence_penalty", "frequency_penalty", "logit_bias", "bad_words", "allowed_token_ids"),
    *("min_tokens", "ignore_eos", "stop_token_ids", "include_stop_str_in_output"),
    *("response_format", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    *("reasoning_effort", "chat_template_kwargs"),
}
# Values that request nothing.
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "chat_template_kwargs": ({},),
}
# What the body of a row may not set, since its output would then not be what was requested; and
# the values that request nothing.
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "stream": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "structural_tag": ("",),
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


@dataclass(frozen=True, slots=True)
class _Body:
    n: int | None = None


@dataclass(frozen=True, slots=True)
class _Tags:
    """The fields of a row that its output depends on."""

    body: _Body = _Body()


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


def settings_of(body: Mapping[str, Any]) -> tuple[Settings, tuple[str, ...]]:
    """Return what a row's body sets, and the names of fields that have no effect here.

    ValueError when it asks for what its output could not honour.
    """
    extra_body = body.get("extra_body")  # where clients put what their library does not know
    if isinstance(extra_body, Mapping):
        body = {name: v for name, v in {**body, **extra_body}.items() if name != "extra_body"}
    for name, harmless in _REFUSED.items():
        if name in body and body[name] not in harmless:
            raise ValueError(f"its body sets {name!r}; Leadline does not support it; remove it")
    sampling = {key: _value(key, body[name]) for name, key in _SAMPLING.items() if name in body}
    extra = {
        name: value
        for name, value in body.items()
        if name in _EXTRA and value not in _HARMLESS.get(name, ())
    }
    counts = {name: _whole(body, name) for name in ("n", "seed")}
    if counts["n"] == 1:  # one choice is returned in any case, however many attempts vote
        counts["n"] = None
    honoured = _SAMPLING.keys() | _EXTRA | _REFUSED.keys() | counts.keys()
    settings = Settings(**counts, sampling=sampling | ({"extra": extra} if extra else {}))
    return settings, tuple(sorted(body.keys() - honoured))


def _value(key: str, value: object) -> object:
    if key == "stop" and isinstance(value, str):
        return [value]
    if key == "thinking_tokens" and value == 0:  # for us no limit, in a body no thinking
        raise ValueError("its body sets 'thinking_token_budget' to 0; the least is 1")
    return 0 if key == "top_k" and value == -1 else value  # vLLM's -1 is no limit, as our 0


def _whole(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"its body sets {name!r} to {value!r}; it must be a whole number")
    return value


def write_batch_output(job: Job, plan: Plan) -> Path:
    """Write a job's results as the output of an OpenAI batch and return the file's path.

    The file is replaced in one step. JournalError when the write fails.
    """
    path = job.directory / "batch_output.jsonl"
    model = plan.models[plan.default_model].path
    lines = (
        output_line(r, returned_attempts(job.journal.pool(r.problem_id), r), model)
        for r in job.iter_results()
    )
    write_parts_atomically(path, (msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def returned_attempts(pool: Sequence[Trace], result: Result) -> list[Trace]:
    """Return the attempts that a row gets back, each with the text of its whole lineage.

    First the lowest one with the winning answer, or, if none gave an answer, the first with a text.
    A row with `n` gets up to n attempts, the others by ordinal.
    """
    by_ordinal = {t.ordinal: t for t in pool}
    continued = {t.parent for t in pool}
    ends = [t.ordinal for t in pool if t.ordinal not in continued and not t.lost]
    attempts = sorted(o for o in ends if by_ordinal[o].purpose in VOTING and by_ordinal[o].text)
    chosen = result.clusters[0].ordinals[:1] if result.clusters else attempts[:1]
    ordered = dict.fromkeys([o for o in chosen if o in by_ordinal] + attempts)
    n = msgspec.json.decode(result.tags, type=_Tags).body.n or 1
    return [whole(lineage(by_ordinal[o], by_ordinal)) for o in itertools.islice(ordered, n)]


def output_line(result: Result, attempts: Sequence[Trace], model: str) -> JSON:
    """Return a result as one line of an OpenAI batch's output, each attempt as a choice.

    The reply of an attempt is the message's `content`, its thinking, if it has any, the
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
                "index": index,
                "message": _message(split("") if attempt is None else parts_of(attempt)),
                "logprobs": None,
                "finish_reason": "length"
                if attempt and attempt.finish is Finish.LENGTH
                else "stop",
            }
            for index, attempt in enumerate(attempts or [None])
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
