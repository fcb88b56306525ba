"""The bodies of requests, as the service's OpenAPI document describes them.

The one rule: a field here has the type that the protocol gives it; whether plan and engine honour
its value is decided where rows of a batch are read (`orchestrator.jobs.openai_batch`). Fields that
are not listed are passed on to that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CHOICES, MAX_LOGPROBS = 128, 20
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class Budget(BaseModel):
    """Limits of one request; the plan's own are the most that may be set."""

    model_config = ConfigDict(extra="forbid", strict=True)
    tokens: _Count | None = None
    traces: _Count | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)] | None = None
    usd: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)] | None = None


class Extension(BaseModel):
    """How a request is explored: what a plan file says, for one request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    strategy: str | dict[str, Any] | None = None
    selector: str | dict[str, Any] | None = None
    budget: Budget | None = None
    depth: _Count | None = None
    thinking_tokens: _Count | None = None
    domain: str | None = None
    progress: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: Annotated[str, Field(max_length=1000)]
    stream: bool | None = None
    temperature: _Number | None = None
    top_p: _Number | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    leadline: Extension | None = None


class StreamOptions(BaseModel):
    """What a stream has beside its text."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = None


class ChatMessage(BaseModel):
    """A message of a chat: text, media as data, calls of tools, or the reply to a call."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatBody(_Body):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


class CompletionBody(_Body):
    """The body of /v1/completions."""

    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    stop: str | list[str] | None = None


class ResponsesBody(_Body):
    """The body of /v1/responses."""

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: _Count | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None


class BatchBody(BaseModel):
    """The body of /v1/batches."""

    model_config = ConfigDict(extra="allow")
    input_file_id: Annotated[str, Field(max_length=200)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: Annotated[str, Field(max_length=20)] = "24h"
    metadata: dict[str, str] | None = None
