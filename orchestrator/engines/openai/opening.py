"""Opens the client of a server, and requires that the server is there and serves the models.

It also reads the replies that are no completions. The one rule: what waiting may mend, such as a
busy server, is no error here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Model
from orchestrator.engines.openai.refusals import cause, is_temporary
from orchestrator.engines.openai.secrets import secret
from orchestrator.engines.openai.stream import limits
from orchestrator.engines.openai.stream.chunks import MalformedReply

if TYPE_CHECKING:
    import openai

    from orchestrator.engines.openai.engine import HttpEngine, OpenAI


class Unreachable(EngineError):
    """No server answers at an address."""


class Rejected(EngineError):
    """A server rejects every request: a wrong key, address or model."""


def require_remote(models: Mapping[str, Model]) -> None:
    """Raise PlanError for what only an engine that loads models can decide."""
    for name, model in models.items():
        if model.revision or model.max_context_tokens:
            raise PlanError(
                f"models.{name}: revision and max_context_tokens are decided by the remote server; "
                "remove them"
            )
        if model.chat_template:
            raise PlanError(
                f"models.{name}: the remote server has the chat template (vLLM: vllm serve "
                "--chat-template FILE); remove chat_template"
            )
        if model.reasoning_parser:
            raise PlanError(
                f"models.{name}: the remote server splits thinking from reply (vLLM: vllm serve "
                "--reasoning-parser NAME); remove reasoning_parser"
            )
        if model.tool_parser:
            raise PlanError(
                f"models.{name}: the remote server reads the calls of tools (vLLM: vllm serve "
                "--enable-auto-tool-choice --tool-call-parser NAME); remove tool_parser"
            )


def client(options: OpenAI, headers: Mapping[str, str]) -> openai.AsyncOpenAI:
    """Return a client of one server; `headers` are its secret ones. PlanError without the extra."""
    try:
        import openai

        # takes half the CPU of the client's other one, and keeps up with thousands of streams
        http_client = openai.DefaultAioHttpClient(
            event_hooks={"response": [limits.limit_reply]},
            limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=0),  # no limit
        )
    except (ImportError, RuntimeError) as error:  # the latter where aiohttp is missing
        raise PlanError(
            'the engine "openai" needs the official client: pip install "leadline[http]"'
        ) from error
    return openai.AsyncOpenAI(
        base_url=options.base_url,
        api_key=secret(options.api_key_env) or "none",
        organization=options.organization or None,
        project=options.project or None,
        max_retries=0,
        # No timeout for a free connection: the window limits the requests in flight.
        timeout=openai.Timeout(options.timeout_seconds, connect=options.connect_seconds, pool=None),
        default_headers={**limits.HEADERS, **options.headers, **headers},
        http_client=http_client,
    )


async def require_served(engine: HttpEngine) -> None:
    """Return once the server is known to serve its models, or is too busy to say.

    Otherwise raises EngineError with the remedy; Unreachable if nothing answers.
    """
    with engine.mask.errors():
        await _require_served(engine)


async def _require_served(engine: HttpEngine) -> None:
    import openai

    url = engine.options.base_url
    names = sorted({model.path for model in engine.models.values()})
    try:
        served = await engine.served()
        if engine.options.server == "vllm":
            for name in names:
                if name in served:
                    await engine.tokenize(name, {"prompt": "a"})
    except openai.APIConnectionError as error:
        raise Unreachable(
            f"no server answers at {url} ({cause(error)}); start one there (`python -m "
            "vllm.entrypoints.openai.api_server --model MODEL --port PORT`) or set base_url"
        ) from error
    except openai.APIStatusError as error:
        if is_temporary(error.status_code):
            return  # it is there, and requests are sent until it serves them
        raise EngineError(
            f"{engine.refusal(error)}; check base_url (most end in /v1), server and api_key_env"
        ) from error
    except (MalformedReply, JSONDecodeError) as error:
        raise EngineError(
            f"{url} is no OpenAI-compatible API: {error}; check base_url (most end in /v1) and "
            "server"
        ) from error
    missing = [name for name in names if name not in served]
    if missing:
        raise EngineError(
            f"{url} does not serve {', '.join(missing)}; it serves: "
            f"{', '.join(served) or 'nothing'}"
        )


def token_ids(data: Any) -> tuple[int, ...]:
    """Return the ids in vLLM's reply to /tokenize; MalformedReply if it is invalid."""
    try:
        return msgspec.convert(data, _Tokenized).tokens
    except msgspec.ValidationError as error:
        raise MalformedReply(f"/tokenize sent a malformed reply: {error}") from error


def model_names(data: Any) -> tuple[str, ...]:
    """Return the model names in a reply to /models; MalformedReply if it is invalid."""
    try:
        return tuple(card.id for card in msgspec.convert(data, _Models).data)
    except msgspec.ValidationError as error:
        raise MalformedReply(f"/models sent a malformed reply: {error}") from error


@dataclass(frozen=True, slots=True)
class _Tokenized:
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Card:
    id: str


@dataclass(frozen=True, slots=True)
class _Models:
    data: tuple[_Card, ...]
