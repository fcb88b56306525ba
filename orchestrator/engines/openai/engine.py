"""Any OpenAI-compatible server as an Engine, through the official client.

Completions are streamed, so an abort keeps the tokens that have arrived. The one rule: what the
server says of a request is a FAILED trace; a rate limit, a server error or a lost connection is
`Unavailable`, and the request is sent again (`orchestrator.engines.supervised`; the client's own
retries are off); a server that refuses us altogether is an EngineError.

A remote server does not report everything: `Usage.layer_tokens` is 0 (its layers are unknown),
`Usage.seconds` includes its queue, and tokens generated after the last chunk that was received are
not counted. Latent depth is not supported. Not covered: starting servers, parsing their streams
(`wire`), and what their refusals mean (`refusals`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from orchestrator.core.errors import EngineError, PlanError, Unavailable
from orchestrator.core.metrics import logprobs_needed
from orchestrator.core.plan import Model
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Capability, Finish, Request, Trace
from orchestrator.engines.openai import limits
from orchestrator.engines.openai.body import common, continues, messages
from orchestrator.engines.openai.refusals import (
    cause,
    error_of,
    event_message,
    is_exhausted,
    is_temporary,
    is_temporary_event,
    message,
    unavailable,
)
from orchestrator.engines.openai.secrets import Mask, require_no_key
from orchestrator.engines.openai.wire import (
    CutStream,
    MalformedReply,
    StreamedReply,
    model_names,
    token_ids,
)

if TYPE_CHECKING:
    import openai

_CONNECT_SECONDS = 10.0  # a server that accepts no connection within this time is down
_PROBE_SECONDS = 30.0  # for /models, which busy servers answer late
_PROBE_RETRIES = 2  # of the client, before anything is sent that the supervision would repeat


@dataclass(frozen=True, slots=True)
class OpenAI:
    """Sends requests to a running OpenAI-compatible server, local or remote.

    The `path` of a model in a plan is the name under which the server serves it.
    """

    base_url: Annotated[
        str,
        Meta(
            pattern="^https?://",
            description="Address of the API, which most servers have at a path that ends in /v1.",
        ),
    ] = "http://127.0.0.1:8000/v1"
    api_key_env: Annotated[
        str,
        Meta(
            description="Name of the environment variable that holds the key; a server without "
            "keys needs none."
        ),
    ] = "OPENAI_API_KEY"
    timeout_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds to wait for the server's next byte, which is not a limit on a "
            "whole completion.",
        ),
    ] = 600.0
    chat: Annotated[
        bool,
        Meta(
            description="Whether prompts go to /chat/completions; otherwise they go to "
            "/completions as plain text, for base models."
        ),
    ] = True
    server: Annotated[
        Literal["any", "openai", "vllm"],
        Meta(
            description='What may be sent. "any": top_k, min_p and repetition_penalty only where '
            'the plan sets them. "openai": the same, with max_completion_tokens as the limit, '
            'which OpenAI insists on and local servers ignore. "vllm": every sampling parameter, '
            "so that the server's own defaults do not mix in; and token ids come back, so that "
            "cancelled traces have exact counts and traces can be continued."
        ),
    ] = "any"

    def __post_init__(self) -> None:
        """Refuse an address that carries a key."""
        require_no_key(self.base_url)

    def capabilities(self) -> frozenset[Capability]:
        """Return the engine's capabilities.

        SEED is best effort: vLLM honours it, OpenAI tries to, some servers ignore it. CANCEL closes
        the stream: vLLM stops generating at once, others when they notice. RULES are checked here
        on the stream, which is closed when one fires; a rule on confidence fails the trace if the
        server sends too few log-probabilities (OpenAI's own limit is 20 in chat, 5 otherwise).
        """
        common = {Capability.SEED, Capability.CANCEL, Capability.LOGPROBS, Capability.RULES}
        return frozenset(common | {Capability.CONTINUE} if self.server == "vllm" else common)

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[Engine]:
        """Return a context manager that yields an engine for a server with these models.

        EngineError or PlanError otherwise.
        """
        return _opened(self, models)


@asynccontextmanager
async def _opened(options: OpenAI, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
    try:
        import openai
    except ImportError as error:
        raise PlanError(
            'the engine "openai" needs the official client: pip install "leadline[http]"'
        ) from error
    for name, model in models.items():
        if model.revision or model.max_context_tokens:
            raise PlanError(
                f"models.{name}: revision and max_context_tokens are decided by the remote server; "
                "remove them"
            )
        if model.reasoning_parser:
            raise PlanError(
                f"models.{name}: the remote server splits thinking from reply (vLLM: vllm serve "
                "--reasoning-parser NAME); remove reasoning_parser"
            )
    client = openai.AsyncOpenAI(
        base_url=options.base_url,
        api_key=os.environ.get(options.api_key_env) or "none",
        max_retries=0,
        # No timeout for a free connection: the window limits the requests in flight.
        timeout=openai.Timeout(options.timeout_seconds, connect=_CONNECT_SECONDS, pool=None),
        default_headers=limits.HEADERS,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [limits.limit_reply]}),
    )
    async with client:
        engine = HttpEngine(client, options, models)
        with engine.mask.errors():
            await engine.check()
        yield engine


class HttpEngine:
    """One server. Safe to share between tasks of one event loop."""

    def __init__(
        self, client: openai.AsyncOpenAI, options: OpenAI, models: Mapping[str, Model]
    ) -> None:
        """Use an open client; sends nothing."""
        self._client = client
        self._options = options
        self._models = models
        self._running: dict[tuple[str, int], asyncio.Timeout] = {}
        self._replies: dict[tuple[str, int], StreamedReply] = {}
        self.mask = Mask(os.environ.get(options.api_key_env, ""))

    async def check(self) -> None:
        """Return once the server is known to serve every model of the plan, or is too busy to say.

        Otherwise raises EngineError with the remedy.
        """
        import openai

        url = self._options.base_url
        try:
            served = await self._served()
            if self._options.server == "vllm":
                for model in self._models.values():
                    if model.path in served:
                        await self._tokenize(model.path, {"prompt": "a"})
        except openai.APIConnectionError as error:
            raise EngineError(
                f"no server answers at {url} ({cause(error)}); start one there (`python -m "
                "vllm.entrypoints.openai.api_server --model MODEL --port PORT`) or set base_url"
            ) from error
        except openai.APIStatusError as error:
            if is_temporary(error.status_code):
                return  # it is there, and requests are sent until it serves them
            raise EngineError(
                f"{self._refusal(error)}; check base_url (most end in /v1), server and api_key_env"
            ) from error
        except (MalformedReply, JSONDecodeError) as error:
            raise EngineError(
                f"{url} is no OpenAI-compatible API: {error}; check base_url (most end in /v1) and "
                "server"
            ) from error
        missing = sorted({model.path for model in self._models.values()} - set(served))
        if missing:
            raise EngineError(
                f"{url} does not serve {', '.join(missing)}; it serves: "
                f"{', '.join(served) or 'nothing'}"
            )

    async def generate(self, request: Request) -> Trace:
        """Return the trace of one request.

        Unavailable if it may be served later; EngineError if the server rejects all requests.
        """
        started = time.perf_counter()
        key = (request.problem_id, request.ordinal)
        reply = self._replies[key] = StreamedReply(request)
        try:
            async with asyncio.timeout(None) as stop:  # no timeout: `abort` makes it expire
                self._running[key] = stop
                with self.mask.errors():
                    await self._fill(reply, request)
        except TimeoutError:
            if not stop.expired():
                raise
            reply.finish, reply.error = Finish.CANCELLED, ""
        finally:
            self._running.pop(key, None)
            self._replies.pop(key, None)
        return self.mask.trace(reply.trace(time.perf_counter() - started))

    def abort(self, request: Request) -> None:
        """Close the request's stream: its `generate` returns the tokens so far."""
        stop = self._running.pop((request.problem_id, request.ordinal), None)
        if stop is not None:
            stop.reschedule(asyncio.get_running_loop().time())

    def running_tokens(self) -> int:
        """Return the tokens that have arrived of the requests that run."""
        return sum(reply.n_tokens for reply in self._replies.values())

    async def _fill(self, reply: StreamedReply, request: Request) -> None:
        import openai

        try:
            await self._stream(reply, request)
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise EngineError(self._refusal(error)) from error
        except openai.APIStatusError as error:
            if is_temporary(error.status_code):
                raise unavailable(self._options.base_url, error) from error
            reply.fail(message(error))
        except openai.APIConnectionError as error:
            raise self._lost(reply, f"the connection was lost: {cause(error)}") from error
        except openai.APIError as error:  # the client found an error in the stream
            self._break_off(reply, error.body)
        except CutStream as error:
            raise self._lost(reply, str(error)) from error
        except (JSONDecodeError, UnicodeDecodeError) as error:
            reply.fail(f"the server sent invalid JSON: {error}")
        except MalformedReply as error:
            reply.fail(str(error))

    async def _stream(self, reply: StreamedReply, request: Request) -> None:
        import openai

        if reason := self._unservable(request):
            reply.fail(reason)
            return
        path, body = await self._call(reply, request)
        # not by the client's typed methods, because their models of chunks validate nothing
        stream = await self._client.post(
            path, body=body, cast_to=object, stream=True, stream_cls=openai.AsyncStream[object]
        )
        kind = stream.response.headers.get("content-type", "")
        async with stream:
            if "json" in kind and (error := error_of(await _read(stream.response))):
                self._break_off(reply, error)
                return
            async for chunk in stream:
                if error := error_of(chunk):
                    self._break_off(reply, error)
                    return
                if reply.take(chunk):
                    return
            reply.close(kind)

    def _unservable(self, request: Request) -> str:
        if request.model not in self._models:
            return f"there is no model pool {request.model!r}; there are: {', '.join(self._models)}"
        if request.depth is not None:
            return "a remote server offers no latent depth"
        if continues(request) and self._options.server != "vllm":
            return (
                "continuing a trace needs token ids, which only vLLM servers take: set "
                'server = "vllm"'
            )
        if not self._options.chat and not isinstance(request.prompt, str):
            return (
                "with chat = false the prompt must be text, not messages: set chat = true or drop "
                "the system message"
            )
        return ""

    async def _call(self, reply: StreamedReply, request: Request) -> tuple[str, dict[str, object]]:
        body = common(request, self._models[request.model].path, self._options.server)
        top_k = logprobs_needed(request.metrics, request.rules)
        if self._options.chat and not continues(request):
            chat = {"messages": messages(request)}
            return "/chat/completions", body | chat | (
                {} if top_k is None else {"logprobs": True, "top_logprobs": top_k}
            )
        text: dict[str, object] = {"prompt": request.prompt}
        if continues(request):
            text = {"prompt": await self._prefix(reply, request)}
        if top_k is not None:
            text["logprobs"] = top_k
            if self._options.server == "vllm":
                # Top log-probabilities are keyed by token text here, and several tokens may have
                # the same text.
                text["return_tokens_as_token_ids"] = True
        return "/completions", body | text

    async def _prefix(self, reply: StreamedReply, request: Request) -> list[int]:
        model = self._models[request.model].path
        prompt = (
            {"messages": messages(request)} if self._options.chat else {"prompt": request.prompt}
        )
        ids = await self._tokenize(model, prompt)
        if request.suffix:
            reply.suffix_ids = await self._tokenize(
                model, {"prompt": request.suffix, "add_special_tokens": False}
            )
        return [*ids, *request.prefix_ids, *reply.suffix_ids]

    async def _tokenize(self, model: str, data: Mapping[str, object]) -> tuple[int, ...]:
        root = self._options.base_url.rstrip("/").removesuffix("/v1")
        return token_ids(
            await self._client.post(
                f"{root}/tokenize", body={"model": model, **data}, cast_to=object
            )
        )

    async def _served(self) -> tuple[str, ...]:
        client = self._client.with_options(timeout=_PROBE_SECONDS, max_retries=_PROBE_RETRIES)
        return model_names(await client.get("/models", cast_to=object))

    def _break_off(self, reply: StreamedReply, error: object) -> None:
        """End a reply in whose stream the server sent an error; Unavailable if it may pass."""
        reason = f"the server stopped in the middle of the stream: {event_message(error)}"
        if is_temporary_event(error):
            raise self._lost(reply, reason, is_exhausted(error))
        reply.fail(reason)

    def _lost(self, reply: StreamedReply, reason: str, exhausted: bool = False) -> Unavailable:
        return Unavailable(
            f"{self._options.base_url}: {reason}", exhausted=exhausted, lost_tokens=reply.n_tokens
        )

    def _refusal(self, error: openai.APIStatusError) -> str:
        key = self._options.api_key_env
        hint = ""
        if error.status_code in (401, 403):
            state = "set" if os.environ.get(key) else "not set"
            hint = f"; the key is read from ${key}, which is {state}"
        return f"{self._options.base_url} refuses: {message(error)}{hint}"


async def _read(response: Any) -> object:
    """Return a reply that is not a stream, as an error with the status 200 is; None if empty."""
    text = (await response.aread()).strip()
    return json.loads(text) if text else None
