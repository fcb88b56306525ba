"""Any OpenAI-compatible server as an Engine, through the official client.

Completions are streamed, so an abort keeps the tokens that have arrived. The one rule: what the
server says of a request is a FAILED trace; a rate limit, a server error or a lost connection is
`Unavailable`, and the request is sent again (`orchestrator.engines.supervised`; the client's own
retries are off); a server that refuses us altogether is an EngineError.

A remote server does not report everything: `Usage.layer_tokens` is 0 (its layers are unknown),
`Usage.seconds` includes its queue, and tokens generated after the last chunk that was received are
not counted. Latent depth is not supported. Not covered: starting servers, parsing their streams
(`wire`), what their refusals mean (`refusals`), and the spreading over several (`pool`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from json import JSONDecodeError
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.errors import EngineError, PlanFault, Unavailable
from orchestrator.core.metrics import (
    logprobs_needed,
    top_logprobs_computed,
)
from orchestrator.core.plan import Model
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Capability, Finish, Request, Trace
from orchestrator.engines.openai import body, opening
from orchestrator.engines.openai.endpoints import (
    KEY_VARIABLE,
    Address,
    Endpoint,
    EndpointOptions,
    ServerKind,
    served,
)
from orchestrator.engines.openai.pool import EndpointPool
from orchestrator.engines.openai.refusals import (
    cause,
    error_of,
    event_message,
    is_exhausted,
    is_temporary,
    is_temporary_event,
    message,
    unavailable,
    whole_reply,
)
from orchestrator.engines.openai.running import RunningEndpoint
from orchestrator.engines.openai.secrets import (
    Mask,
    require_public,
    secret,
    secret_headers,
)
from orchestrator.engines.openai.stream.chunks import CutStream, ErrorEvent, MalformedReply
from orchestrator.engines.openai.stream.events import chunks
from orchestrator.engines.openai.wire import StreamedReply
from orchestrator.engines.supervised import Clock
from orchestrator.kit.prompts import chat_messages
from orchestrator.plan.check import THINKING

if TYPE_CHECKING:
    import openai

_PROBE_SECONDS, _PROBE_RETRIES = 30.0, 2  # for /models, which busy servers answer late


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAI(EndpointOptions):
    """Sends requests to running OpenAI-compatible servers, local or remote.

    The `path` of a model in a plan is the name under which the server serves it.
    """

    is_remote: ClassVar[bool] = True
    base_url: Annotated[
        Address,
        Meta(
            description="Address of the API, which most servers have at a path that ends in /v1.",
        ),
    ] = "http://127.0.0.1:8000/v1"
    api_key_env: Annotated[
        str,
        Meta(
            description="Name of the environment variable that holds the key; a server without "
            "keys needs none."
        ),
    ] = KEY_VARIABLE
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Meta(
            description="Several servers, among which requests are spread: tables with base_url, "
            "api_key_env, model, pool, server, headers, headers_env, organization, project, "
            "requests_per_minute, tokens_per_minute and max_in_flight, each as set here if unset."
        ),
    ] = ()
    timeout_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds to wait for the server's next byte, which is not a limit on a "
            "whole completion.",
        ),
    ] = 600.0
    connect_seconds: Annotated[
        float, Meta(gt=0, description="Seconds within which a server must accept a connection.")
    ] = 10.0
    chat: Annotated[
        bool,
        Meta(
            description="Whether prompts go to /chat/completions; otherwise they go to "
            "/completions as plain text, for base models."
        ),
    ] = True
    server: Annotated[
        ServerKind,
        Meta(
            description='What may be sent. "any": top_k, min_p and repetition_penalty only where '
            'the plan sets them. "openai": the same, with max_completion_tokens as the limit, '
            'which OpenAI insists on and local servers ignore. "vllm": every sampling parameter, '
            "so that the server's own defaults do not mix in; and token ids come back, so that "
            "cancelled traces have exact counts and traces can be continued."
        ),
    ] = "any"

    def __post_init__(self) -> None:
        """Refuse secrets, which the plan would keep."""
        require_public(self.base_url, self.api_key_env, self.headers, self.headers_env)

    @property
    def servers(self) -> tuple[OpenAI, ...]:
        """The options for each endpoint alone; these for a single one."""
        each = (replace(self, endpoints=(), **e.options(self)) for e in self.endpoints)
        return tuple(each) or (self,)

    @property
    def is_vllm(self) -> bool:
        """Whether every endpoint is vLLM's server: a request may go to any of them."""
        return all(server.server == "vllm" for server in self.servers)

    def capabilities(self) -> frozenset[Capability]:
        """Return the engine's capabilities.

        SEED is best effort: vLLM honours it, OpenAI tries to, some servers ignore it. CANCEL closes
        the stream: vLLM stops generating at once, others when they notice. RULES are checked here
        on the stream, which is closed when one fires; a rule on confidence fails the trace if the
        server sends too few log-probabilities (OpenAI's own limit is 20 in chat, 5 otherwise).
        CONTINUE needs token ids from every endpoint, because any of them may have begun the trace.
        """
        common = {Capability.SEED, Capability.CANCEL, Capability.LOGPROBS, Capability.RULES}
        return frozenset(common | {Capability.CONTINUE} if self.is_vllm else common)

    def require_sampling(self, extra: Mapping[str, object]) -> None:
        """Raise PlanFault for a field that Leadline sets itself, or a structure of vLLM elsewhere.

        Whatever else there is goes into the request's body; only the server knows what it takes.
        """
        body.require_free(extra)
        for server in self.servers:
            body.structured(extra, server.server)

    def require_tools(self, extra: Mapping[str, object], models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless requests are chats; only the server knows its models' tools."""
        if not self.chat:
            raise PlanFault(
                "sampling.extra", "sampling.extra.tools: tools need chats; set chat = true"
            )

    def require_media(self, kinds: frozenset[str], models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless requests are chats; only the server knows what its models take."""
        if not self.chat:
            raise PlanFault("messages", f"{' and '.join(sorted(kinds))}: set chat = true")

    def require_thinking(self, n_tokens: int, models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless the servers are vLLM's, the only one with a limit in tokens."""
        if not self.is_vllm:
            raise PlanFault(
                THINKING,
                f"{THINKING} = {n_tokens}: only vLLM's server ends the thinking after a number of "
                'tokens (server = "vllm", started with --reasoning-parser); leave it out, or set '
                'sampling.extra = {reasoning_effort = "low"} if the server has that',
            )

    def open(
        self, models: Mapping[str, Model], clock: Clock | None = None
    ) -> AbstractAsyncContextManager[Engine]:
        """Return a context manager that yields an engine for servers with these models.

        `clock` is that of the rates. EngineError or PlanError otherwise.
        """
        return _opened(self, models, clock or Clock())


@asynccontextmanager
async def _opened(
    options: OpenAI, models: Mapping[str, Model], clock: Clock
) -> AsyncIterator[Engine]:
    opening.require_remote(models)
    async with AsyncExitStack() as stack:
        endpoints = []
        for server, own in zip(options.servers, served(options.endpoints, models), strict=True):
            try:
                headers = secret_headers(server.headers_env)
            except ValueError as error:
                raise EngineError(f"{server.base_url}: {error}") from error
            client = await stack.enter_async_context(opening.client(server, headers))
            mask = Mask((secret(server.api_key_env), *headers.values()))
            endpoints.append(RunningEndpoint(HttpEngine(client, server, own, mask), clock.now()))
        pool = EndpointPool(endpoints, clock)
        await pool.check()
        yield pool


class HttpEngine:
    """One server. Safe to share between tasks of one loop."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        options: OpenAI,
        models: Mapping[str, Model],
        mask: Mask,
    ) -> None:
        """Use an open client."""
        self._client = client
        self.options = options
        self.models = models
        self._running: dict[tuple[str, int], asyncio.Timeout] = {}
        self._replies: dict[tuple[str, int], StreamedReply] = {}
        self._listeners: dict[tuple[str, int], Callable[[str], None]] = {}
        self.mask = mask

    def listen(self, request: Request, on_text: Callable[[str], None]) -> None:
        """Report the text of a request's next `generate` as it arrives, without secrets."""
        self._listeners[request.identity] = self.mask.piecewise(on_text)

    async def generate(
        self, request: Request, on_acceptance: Callable[[], None] = lambda: None
    ) -> Trace:
        """Return the trace of one request; `on_acceptance` is called when its stream begins.

        Unavailable if it may be served later; EngineError if the server rejects all requests.
        """
        started = time.perf_counter()
        key = request.identity
        listener = self._listeners.pop(key, lambda text: None)
        reply = self._replies[key] = StreamedReply(request, listener)
        try:
            async with asyncio.timeout(None) as stop:  # no timeout: `abort` makes it expire
                self._running[key] = stop
                with self.mask.errors():
                    await self._fill(reply, request, on_acceptance)
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
        stop = self._running.pop(request.identity, None)
        if stop is not None:
            stop.reschedule(asyncio.get_running_loop().time())

    def running_tokens(self) -> int:
        """Return the tokens that have arrived of the requests that run."""
        return sum(reply.n_tokens for reply in self._replies.values())

    async def _fill(
        self, reply: StreamedReply, request: Request, on_acceptance: Callable[[], None]
    ) -> None:
        import openai

        try:
            await self._stream(reply, request, on_acceptance)
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise opening.Rejected(self.refusal(error)) from error
        except openai.APIStatusError as error:
            if is_temporary(error.status_code):
                raise unavailable(self.options.base_url, error) from error
            reply.fail(message(error))
        except openai.APIConnectionError as error:
            raise self._lost(reply, f"the connection was lost: {cause(error)}") from error
        except ErrorEvent as event:
            self._break_off(reply, event.error)
        except CutStream as error:
            raise self._lost(reply, str(error)) from error
        except (JSONDecodeError, UnicodeDecodeError) as error:
            reply.fail(f"the server sent invalid JSON: {error}")
        except MalformedReply as error:
            reply.fail(str(error))

    async def _stream(
        self, reply: StreamedReply, request: Request, on_acceptance: Callable[[], None]
    ) -> None:
        import openai

        if reason := self.unservable(request):
            reply.fail(reason)
            return
        path, data = await self._call(reply, request)
        # not by the client's typed methods, whose models of chunks validate nothing
        stream = await self._client.post(
            path, body=data, cast_to=object, stream=True, stream_cls=openai.AsyncStream[object]
        )
        on_acceptance()
        kind = stream.response.headers.get("content-type", "")
        async with stream:
            if "json" in kind and (error := error_of(await whole_reply(stream.response))):
                self._break_off(reply, error)
                return
            async for chunk in chunks(stream.response):
                if reply.take(chunk):
                    return
            reply.close(kind)

    def unservable(self, request: Request) -> str:
        if request.model not in self.models:
            return f"there is no model pool {request.model!r}; there are: {', '.join(self.models)}"
        return body.refusal(request, self.options.chat, self.options.server)

    async def _call(self, reply: StreamedReply, request: Request) -> tuple[str, dict[str, object]]:
        data = body.common(request, self.models[request.model].path, self.options.server)
        top_k = top_logprobs_computed(request)
        if self.options.chat and not body.continues(request):
            chat = {"messages": chat_messages(request.prompt)}
            return "/chat/completions", data | chat | (
                {} if top_k is None else {"logprobs": True, "top_logprobs": top_k}
            )
        text: dict[str, object] = {"prompt": request.prompt}
        if body.continues(request):
            text = {"prompt": await self._prefix(reply, request)}
        if top_k is not None:
            text["logprobs"] = top_k
            if self.options.server == "vllm" and logprobs_needed(request.metrics, request.rules):
                # Top log-probabilities are keyed by token text here, and several tokens may have
                # the same text.
                text["return_tokens_as_token_ids"] = True
        return "/completions", data | text

    async def _prefix(self, reply: StreamedReply, request: Request) -> list[int]:
        model = self.models[request.model].path
        prompt: dict[str, object] = {"prompt": request.prompt}
        if self.options.chat:
            prompt = {"messages": chat_messages(request.prompt)}
        ids = await self.tokenize(model, prompt)
        if request.suffix:
            reply.suffix_ids = await self.tokenize(
                model, {"prompt": request.suffix, "add_special_tokens": False}
            )
        return [*ids, *request.prefix_ids, *reply.suffix_ids]

    async def tokenize(self, model: str, data: Mapping[str, object]) -> tuple[int, ...]:
        root = self.options.base_url.rstrip("/").removesuffix("/v1")
        return opening.token_ids(
            await self._client.post(
                f"{root}/tokenize", body={"model": model, **data}, cast_to=object
            )
        )

    async def served(self) -> tuple[str, ...]:
        client = self._client.with_options(timeout=_PROBE_SECONDS, max_retries=_PROBE_RETRIES)
        return opening.model_names(await client.get("/models", cast_to=object))

    def _break_off(self, reply: StreamedReply, error: object) -> None:
        """End a reply in whose stream the server sent an error; Unavailable if it may pass."""
        reason = f"the server stopped in the middle of the stream: {event_message(error)}"
        if is_temporary_event(error):
            raise self._lost(reply, reason, is_exhausted(error))
        reply.fail(reason)

    def _lost(self, reply: StreamedReply, reason: str, exhausted: bool = False) -> Unavailable:
        return Unavailable(
            f"{self.options.base_url}: {reason}", exhausted=exhausted, lost_tokens=reply.n_tokens
        )

    def refusal(self, error: openai.APIStatusError) -> str:
        key = self.options.api_key_env
        hint = ""
        if error.status_code in (401, 403):
            state = "set" if secret(key) else "not set"
            where = f"the key is read from ${key}, which is {state}"
            hint = f"; {where if key else 'no key was sent: set api_key_env'}"
        return f"{self.options.base_url} refuses: {message(error)}{hint}"
