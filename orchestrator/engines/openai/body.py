"""The body of a request to an OpenAI-compatible server.

The one rule: a field is decided in one place, by a key of the plan, by the strategy or by a metric;
`sampling.extra` adds fields and never replaces one. Not covered: prompts as token ids (`engine`).
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.errors import PlanFault
from orchestrator.core.values import Message, Request, Sampling

_DEFAULTS = Sampling()
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
    **dict.fromkeys(("logprobs", "top_logprobs"), "metrics and stop rules"),
    **dict.fromkeys(("stream", "stream_options"), "the engine, which reads streams"),
    **dict.fromkeys(("return_token_ids", "return_tokens_as_token_ids"), "the engine's `server`"),
}


def require_free(extra: Mapping[str, object]) -> None:
    """Raise PlanFault for a field of `sampling.extra` that is decided elsewhere."""
    for name in extra:
        if where := _DECIDED.get(name):
            raise PlanFault(
                "sampling.extra", f"sampling.extra.{name} is not sent: it is decided by {where}"
            )


def continues(request: Request) -> bool:
    """Tell whether a request continues a trace."""
    return request.parent is not None or bool(request.suffix)


def messages(request: Request) -> list[dict[str, str]]:
    """Return the messages of a chat."""
    prompt = request.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [{"role": m.role, "content": m.content} for m in messages]


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
    return {**sampling.extra, **body}
