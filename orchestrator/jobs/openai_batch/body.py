"""The rows of an OpenAI batch: they become fields of a problem, and settings of its own.

Requests in a row that its output could not honour are refused here. `orchestrator.jobs.problems`
builds problems from the fields, as for every other format.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from orchestrator.core.plan import Model, Settings
from orchestrator.jobs.openai_batch.extension import FIELD, extended

JSON: TypeAlias = dict[str, object]
COMPLETIONS = "/v1/completions"
REFUSAL = "leadline_refusal"  # of a row that was refused before it was stored: the reason
_PROMPT_FIELDS = {"/v1/chat/completions": "messages", COMPLETIONS: "prompt"}

# Fields of a body that are keys of `[sampling]`, and those that change no answer. All that stand in
# no table here are `sampling.extra`: the engine says whether it can honour them.
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
_IDLE = {
    *("model", "user", "metadata", "store", "service_tier", "safety_identifier", "stream_options"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "prediction"),
    *("priority", "request_id", "session_id", "cache_salt"),
}
# Those that only change which attempts are drawn: a plan that rows may not override decides them.
# The others constrain the output.
_DRAWING = {
    *(_SAMPLING.keys() - {"stop"}),
    *("presence_penalty", "frequency_penalty", "n", "seed"),
}
_LOGPROBS = ("logprobs", "top_logprobs")
_COUNTS = ("n", "seed")
NO_POOLS: Mapping[str, str] = MappingProxyType({})
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
    "tools": ([],),
    "include_reasoning": (True,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "length_penalty": (1, 1.0),
    "verbosity": ("medium",),
}
_NO_CHOICE = (("tool_choice", "none"), ("tool_choice", "auto"))
# What the body of a row may not set, since its output would then not be what was requested; and
# the values that request nothing.
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "stream": (False,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "structural_tag": ("",),
    "use_beam_search": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "modalities": (["text"],),
    "audio": (),
    "echo": (False,),
    "suffix": ("",),
}


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
    if REFUSAL in row:
        return fields, str(fields.pop(REFUSAL))
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
    kept = {"url": url} if url == COMPLETIONS else {}  # its output has another form
    return {**fields, **kept, question: body.pop(question), "body": body}, ""


def named_pools(models: Mapping[str, Model]) -> dict[str, str]:
    """Return the model pools that generate text, by every name of theirs: the pool's, or its path.

    Of several pools with a path, it is that of the first without an adapter.
    """
    generating = {name: model for name, model in models.items() if not model.task}
    by_path: dict[str, str] = {}
    for name, model in generating.items():
        if not model.lora:
            by_path.setdefault(model.path, name)
    names = {name: name for name in generating}
    return names | {path: name for path, name in by_path.items() if path not in names}


def pools_of_rows(models: Mapping[str, Model]) -> dict[str, str]:
    """Return the pools that a row can choose by its `model`; a row without one has the default."""
    default = next(iter(models), "")
    return {word: name for word, name in named_pools(models).items() if name != default}


def settings_of(
    body: Mapping[str, Any], *, override: bool = True, pools: Mapping[str, str] = NO_POOLS
) -> tuple[Settings, tuple[str, ...]]:
    """Return what a row's body sets, and the names of fields that have no effect here.

    `pools` are those of `pools_of_rows`. Without `override` it sets nothing: the plan does.
    ValueError when it asks for what its output could not honour.
    """
    extra_body = body.get("extra_body")  # where clients put what their library does not know
    if isinstance(extra_body, Mapping):
        body = {name: v for name, v in {**body, **extra_body}.items() if name != "extra_body"}
    for name, harmless in _REFUSED.items():
        if name in body and body[name] not in harmless:
            raise ValueError(f"its body sets {name!r}; Leadline does not support it; remove it")
    pool = pools.get(str(body.get("model")), "")
    if not override:
        return Settings(), _without_effect(body, pool)
    sampling = {key: _value(key, body[name]) for name, key in _SAMPLING.items() if name in body}
    decided = {*_SAMPLING, *_IDLE, *_REFUSED, *_LOGPROBS, *_COUNTS, FIELD}
    extra = {
        name: value
        for name, value in body.items()
        if name not in decided and value not in _HARMLESS.get(name, ())
    }
    if "tools" not in extra:  # then a choice among them requests nothing
        extra = {
            name: value
            for name, value in extra.items()
            if name != "parallel_tool_calls" and (name, value) not in _NO_CHOICE
        }
    counts = {name: _whole(body, name) for name in _COUNTS}
    if counts["n"] == 1:  # one choice is returned in any case, however many attempts vote
        counts["n"] = None
    sampling |= _logprobs(body) | ({"extra": extra} if extra else {})
    idle = body.keys() & (_IDLE - {"model"} if pool else _IDLE)
    settings = Settings(counts["n"], counts["seed"], sampling, pool)
    if FIELD in body:
        settings = extended(settings, body[FIELD])
    return settings, tuple(sorted(idle))


def _logprobs(body: Mapping[str, Any]) -> JSON:
    """Return the keys of `[sampling]` for log-probabilities, in either form of the API.

    ValueError for a number of the most likely tokens without the tokens themselves.
    """
    wanted, n_top = body.get("logprobs", False), body.get("top_logprobs", 0)
    if isinstance(wanted, int) and not isinstance(wanted, bool):  # of /v1/completions
        wanted, n_top = True, wanted
    if wanted is False and n_top:
        raise ValueError("its body sets 'top_logprobs' without 'logprobs'; set that to true")
    return {} if wanted is False else {"logprobs": wanted, "top_logprobs": n_top}


def _without_effect(body: Mapping[str, Any], pool: str) -> tuple[str, ...]:
    """Return the names of fields that the plan decides instead; `pool` is that of the row's model.

    ValueError for one without which the output would not be what was requested.
    """
    free = _DRAWING | _IDLE | _REFUSED.keys() | {*_LOGPROBS, FIELD}
    found = [n for n in body if n not in free and body[n] not in _HARMLESS.get(n, ())]
    found += ["logprobs"] if _logprobs(body) else []
    found += ["model"] if pool else []
    found += [FIELD] if FIELD in body else []
    if found:
        raise ValueError(
            f"its body sets {found[0]!r}, and batch.override = false lets rows set nothing; remove "
            "it, or set it for all rows in the plan"
        )
    return tuple(sorted(body.keys() & (_DRAWING | _IDLE)))


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
