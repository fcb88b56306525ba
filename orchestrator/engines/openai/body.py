"""The bodies of requests to an OpenAI-compatible server. Sends nothing."""

from __future__ import annotations

from orchestrator.core.values import Message, Request, Sampling

_DEFAULTS = Sampling()


def continues(request: Request) -> bool:
    """Tell whether a request continues a trace or a forced suffix, which takes token ids."""
    return request.parent is not None or bool(request.suffix)


def messages(request: Request) -> list[dict[str, str]]:
    """Return a prompt as chat messages."""
    prompt = request.prompt
    given = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [{"role": m.role, "content": m.content} for m in given]


def common(request: Request, model: str, server: str) -> dict[str, object]:
    """Return the part of a body that chat and text completions share."""
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
    if server == "vllm":
        body["return_token_ids"] = True
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return body
