"""The body of a request to an OpenAI-compatible server.

The one rule: a field is decided in one place, by a key of the plan, by the strategy or by a metric;
`sampling.extra` adds fields and never replaces one. Not covered: prompts as token ids (`engine`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from orchestrator.core.errors import PlanFault
from orchestrator.core.metrics import logprobs_needed, top_logprobs_returned
from orchestrator.core.values import Request, Sampling, media_of

KEY = "sampling.extra"
_DEFAULTS = Sampling()
_GUIDED = {f"guided_{kind}": kind for kind in ("json", "regex", "choice", "grammar")}
# The fields that are decided elsewhere, with where.
_DECIDED: Mapping[str, str] = {
    "model": "models.NAME.path",
    "n": "the strategy's n",
    "seed": "the plan's seed",
    "max_tokens": "sampling.max_new_tokens",
    "max_completion_tokens": "sampling.max_new_tokens",
    "thinking_token_budget": "sampling.thinking_tokens",
    **{
        name: f"sampling.{name}"
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
    },
    **dict.fromkeys(("messages", "prompt"), "the problem"),
    **{name: f"sampling.{name}" for name in ("logprobs", "top_logprobs")},
    **dict.fromkeys(("stream", "stream_options"), "the engine, which reads streams"),
    **dict.fromkeys(("return_token_ids", "return_tokens_as_token_ids"), "the engine's `server`"),
}


def require_free(extra: Mapping[str, object]) -> None:
    """Raise PlanFault for a field of `sampling.extra` that is decided elsewhere."""
    for name in extra:
        if where := _DECIDED.get(name):
            raise PlanFault(KEY, f"{KEY}.{name} is not sent: it is decided by {where}")


def structured(extra: Mapping[str, object], server: str) -> dict[str, object]:
    """Return the other fields with the structure of the reply in the words of this kind of server.

    `guided_*` is of former versions of vLLM, whose server passes over it. PlanFault for a structure
    that only vLLM's server knows: another one would answer without it.
    """
    rest = dict(extra)
    named = [name for name in (*_GUIDED, "structured_outputs") if name in rest]
    given = rest.pop("structured_outputs", None) or {}
    wanted = {**cast(Mapping[str, object], given)}
    wanted |= {kind: rest.pop(name) for name, kind in _GUIDED.items() if name in rest}
    if not named:
        return rest
    if server == "vllm":
        return {**rest, "structured_outputs": wanted}
    if wanted.keys() == {"json"}:
        schema = {"name": "reply", "strict": True, "schema": _schema(wanted["json"])}
        return {**rest, "response_format": {"type": "json_schema", "json_schema": schema}}
    if wanted == {"json_object": True}:
        return {**rest, "response_format": {"type": "json_object"}}
    raise PlanFault(
        KEY,
        f"{KEY}.{named[0]}: of all servers vLLM's takes this structure; set the engine's server = "
        '"vllm" if it is one, or use response_format',
    )


def _schema(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def continues(request: Request) -> bool:
    """Tell whether a request continues a trace."""
    return request.parent is not None or bool(request.suffix)


def needs_texts_and_ids(request: Request, chat: bool, server: str) -> bool:
    """Tell whether a request for plain text needs tokens in both forms, of which one comes back."""
    is_plain = not chat or continues(request)
    needs_ids = server == "vllm" and bool(logprobs_needed(request.metrics, request.rules))
    return is_plain and needs_ids and top_logprobs_returned(request) is not None


def has_tools(request: Request) -> bool:
    """Tell whether a request has tools that its reply may call."""
    return request.sampling is not None and bool(request.sampling.extra.get("tools"))


def common(request: Request, model: str, server: str) -> dict[str, object]:
    """Return the fields that chats and plain completions share."""
    sampling = request.sampling or Sampling()
    limit = "max_completion_tokens" if server == "openai" else "max_tokens"
    body: dict[str, object] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": request.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        limit: request.max_new_tokens or sampling.max_new_tokens,
    }
    stop = request.stop or sampling.stop
    if stop:
        body["stop"] = list(stop)
    for field in ("top_k", "min_p", "repetition_penalty"):
        value = getattr(sampling, field)
        if server == "vllm" or value != getattr(_DEFAULTS, field):
            body[field] = value
    if sampling.thinking_tokens:
        body["thinking_token_budget"] = sampling.thinking_tokens
    if server == "vllm":
        body["return_token_ids"] = True
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return {**structured(sampling.extra, server), **body}


def refusal(request: Request, chat: bool, server: str) -> str:
    """Return why a request cannot be sent to such a server; "" if it can."""
    if request.depth is not None:
        return "a remote server offers no latent depth"
    if continues(request) and server != "vllm":
        return (
            'continuing a trace needs token ids, which only vLLM servers take: set server = "vllm"'
        )
    if needs_texts_and_ids(request, chat, server):
        return (
            "sampling.logprobs: /completions sends texts or ids of tokens, and metrics need "
            "the ids; leave it out, or choose a strategy and a selector without metrics"
        )
    if continues(request) and media_of(request.prompt):
        return "a trace after images, sounds or videos cannot be continued by this engine"
    if continues(request) and has_tools(request):
        return "a trace with tools cannot be continued by this engine"
    if not chat and not isinstance(request.prompt, str):
        return (
            "with chat = false the prompt must be text, not messages: set chat = true or drop "
            "the system message"
        )
    return ""
