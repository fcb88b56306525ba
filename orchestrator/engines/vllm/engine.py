"""vLLM's AsyncLLM as an Engine: one per model pool, in this process.

One vLLM request per Request, with its own seed, stop and cancellation. The one rule: nothing is
kept of a finished request, and nothing runs per token here unless metrics or stop rules need it
(`watch`). Not covered: starting engines (`options`), distributing requests over several engines,
and restarting a dead one (the `ray` engine).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.metrics import top_logprobs_computed
from orchestrator.core.values import Finish, Request, Sampling, Trace, media_of
from orchestrator.engines.reply import trace_for
from orchestrator.engines.vllm import pooling
from orchestrator.engines.vllm.depth import Computation, computation_of
from orchestrator.engines.vllm.prompts import (
    EngineInput,
    Prompts,
    Refused,
    checkpoint_tokens,
    fitting_tokens,
    template_settings,
)
from orchestrator.engines.vllm.reply import (
    completed,
    tag_before,
    with_prompt_logprobs,
    with_thinking,
)
from orchestrator.engines.vllm.sampling import parameters, without_limit
from orchestrator.engines.vllm.start import host
from orchestrator.engines.vllm.start.media import rendered
from orchestrator.engines.vllm.start.started import StartedEngine
from orchestrator.engines.vllm.start.tools import ToolUse, tool_use, with_calls
from orchestrator.engines.vllm.watch import TokenWatch, tokens_so_far
from orchestrator.plan.looped import (
    DEPTH_ARGUMENT,
    NOISE_ARGUMENT,
    WARM_ARGUMENT,
    cache_salt,
    require_depth,
)

_MAX_SETTINGS = 1024  # sampling settings with cached vLLM parameters


class VllmEngine:
    """Serves requests with one AsyncLLM per pool; made by `Vllm.open`, used from one event loop."""

    def __init__(self, engines: Mapping[str, StartedEngine]) -> None:
        """Serve with these engines, by pool name; the first is the default pool.

        An engine serves several pools if they are adapters of one model.
        """
        first = {id(started): name for name, started in reversed([*engines.items()])}
        opened = {name: _ModelPool(name, engines[name]) for name in first.values()}
        self._engines = list(opened.values())
        self._pools = {name: opened[first[id(started)]] for name, started in engines.items()}
        self._running: WeakValueDictionary[tuple[object, ...], _RunningRequest]
        self._running = WeakValueDictionary()
        self._listeners: dict[tuple[object, ...], Callable[[str], None]] = {}
        self._numbers = itertools.count()
        self._aborts: set[asyncio.Task[None]] = set()

    def generate(self, request: Request) -> Coroutine[Any, Any, Trace]:
        """Return the coroutine that completes `request`; from now on `abort` can stop it.

        FAILED if this request cannot be served; EngineError if the engine is dead or shut down.
        """
        running = _RunningRequest()
        self._running[_identity(request)] = running
        return self._generate(request, running)

    def listen(self, request: Request, on_text: Callable[[str], None]) -> None:
        """Report the text of a request's next `generate`.

        Not where a named parser splits the replies of its pool: it may find thinking without tags.
        """
        pool = self._pools.get(request.model)
        if pool is not None and not pool.task and (pool.parser is None or pool.parser.guessed):
            self._listeners[_identity(request)] = on_text

    def abort(self, request: Request) -> None:
        """Stop `request` at once: its pending `generate` returns a CANCELLED trace.

        Unknown and finished requests are ignored.
        """
        running = self._running.get(_identity(request))
        if running is not None and not running.aborted:
            running.aborted = True
            if running.pool is not None:
                self._abort_soon(running)

    def n_running(self) -> int:
        """Return the number of requests in the engines, including waiting ones."""
        return sum(int(pool.llm.get_num_unfinished_requests()) for pool in self._engines)

    @property
    def n_gpus(self) -> float:
        """The number of GPUs that the engines use; 0 on a CPU."""
        return sum(pool.n_gpus for pool in self._engines)

    def running_tokens(self) -> int:
        """Return the output tokens so far of the requests that run."""
        return sum(
            tokens_so_far(pool.llm.output_processor.request_states) for pool in self._engines
        )

    async def close(self) -> None:
        """End every engine and its processes; pending requests raise EngineError."""
        engines, self._engines, self._pools = self._engines, [], {}
        await asyncio.gather(*(pool.close() for pool in engines))

    def _living_pools(self) -> dict[str, _ModelPool]:
        if not self._pools:
            raise EngineError("the vLLM engine was shut down")
        return self._pools

    def _pool(self, name: str) -> _ModelPool:
        pools = self._living_pools()
        if not name:
            return next(iter(pools.values()))
        if name not in pools:
            raise Refused(f"there is no model pool {name!r}; there are: {', '.join(pools)}")
        return pools[name]

    async def _generate(self, request: Request, running: _RunningRequest) -> Trace:
        started = time.perf_counter()
        on_text = self._listeners.pop(_identity(request), None)
        try:
            pool = self._pool(request.model)
            request = pool.at_depth(request)
            data = pool.input_for(
                request, await pool.rendered(request), step_by_step=on_text is not None
            )
            if on_text is not None and (tag := tag_before(request, data, pool.prompts)):
                on_text(tag)
            if running.aborted:
                return trace_for(request, Finish.CANCELLED, suffix_ids=data.suffix_ids)
            running.id = f"{request.problem_id}/{request.ordinal}/{next(self._numbers)}"
            running.pool = pool
            output, watch, computation = await self._output(request, running, pool, data, on_text)
        except Refused as refusal:
            return trace_for(request, Finish.FAILED, error=str(refusal))
        seconds = time.perf_counter() - started
        if pool.task:
            return pooling.valued(
                request,
                pool.task,
                data,
                output,
                pool.prompts.token_id,
                computation.n_layers,
                seconds,
            )
        prompts = pool.prompts
        trace = completed(request, data, output, watch, computation, seconds, prompts)
        trace = with_thinking(trace, request, data, prompts, pool.parser)
        return with_calls(trace, request, data.tools)

    async def _output(
        self,
        request: Request,
        running: _RunningRequest,
        pool: _ModelPool,
        data: EngineInput,
        on_text: Callable[[str], None] | None,
    ) -> tuple[Any, TokenWatch | None, Computation]:
        """Return vLLM's last output for the request, its token watch, and its computation."""
        try:
            queue = await pool.submit(running.id, data, request.model)
            watch = pool.watch(request, queue, on_text)
            if running.aborted:  # perhaps before vLLM knew it, so vLLM aborted nothing
                self._abort_soon(running)
            output = await queue.get()
            if watch is not None and watch.fired and not output.finished:
                self._abort_soon(running)
            computation = await pool.computation(request, queue.request_id)
        except asyncio.CancelledError:
            self._abort_soon(running)
            raise
        except (Refused, EngineError):
            raise
        except Exception as error:  # vLLM raises the engine's fatal error in every consumer
            if pool.llm.errored:
                raise host.death(pool.name) from error
            raise
        return output, watch, computation

    def _abort_soon(self, running: _RunningRequest) -> None:
        # A separate task: aborting sends a message, and the caller may be cancelled again. The set
        # keeps the task alive.
        assert running.pool is not None
        task = asyncio.get_running_loop().create_task(running.pool.abort(running.id))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)


class _RunningRequest:
    """A request in flight.

    Only its coroutine references it, so nothing remains once that is done or dropped unstarted.
    """

    __slots__ = ("__weakref__", "aborted", "id", "pool")

    def __init__(self) -> None:
        self.aborted = False
        self.id = ""
        self.pool: _ModelPool | None = None  # set when the request is submitted to vLLM


class _ModelPool:
    """One started AsyncLLM, and the conversion of requests to its input."""

    def __init__(self, name: str, started: StartedEngine) -> None:
        from vllm import PoolingParams
        from vllm.exceptions import VLLMClientError
        from vllm.logprobs import FlatLogprobs

        self.name = name
        self.llm = llm = started.llm
        self.task = started.task
        self.parser = started.parser
        self.tool_parser = started.tool_parser
        self.context_tokens: int = llm.model_config.max_model_len
        self.prompts = Prompts(llm.get_tokenizer(), name, started.chat_template)
        self._latent, self._adapters = started.latent, started.adapters
        cache = llm.vllm_config.cache_config
        self._block_tokens: int = cache.block_size if cache.enable_prefix_caching else 0
        reasoning = llm.vllm_config.reasoning_config
        self._limits_thinking = reasoning is not None and bool(reasoning.enabled)
        self._n_layers: int = llm.model_config.get_total_num_hidden_layers()
        self._refusals: tuple[type[Exception], ...]
        self._refusals = (PlanError, ValueError, TypeError, VLLMClientError)
        self._flat_logprobs, self._pooling_params = FlatLogprobs, PoolingParams
        self._template = functools.lru_cache(_MAX_SETTINGS)(parameters)
        self._tools = functools.lru_cache(_MAX_SETTINGS)(self._tool_use)

    @property
    def n_gpus(self) -> int:
        """The number of GPUs that the engine uses; 0 on a CPU."""
        config = self.llm.vllm_config
        is_cpu = config.device_config.device_type == "cpu"
        return 0 if is_cpu else int(config.parallel_config.world_size)

    def at_depth(self, request: Request) -> Request:
        """Return the request with the depth at which it runs, None for a model without a loop.

        Refused if the depth is not served.
        """
        if self.task or request.depth is None:
            return request if self._latent is None else replace(request, depth=self._latent.depth)
        try:
            require_depth(request.depth, self._latent, "the request")
        except PlanError as error:
            raise Refused(str(error)) from error
        return request

    async def computation(self, request: Request, request_id: str) -> Computation:
        """Return, once, what vLLM's request took."""
        if self._latent is None:
            return Computation(self._n_layers)
        return await computation_of(self.llm, request_id, self._latent, request.depth or 1)

    def _tool_use(self, sampling: Sampling) -> ToolUse | None:
        return tool_use(sampling.extra, self.tool_parser, self.name)

    async def rendered(self, request: Request) -> Any:
        """Return vLLM's input for a prompt with media; None for any other. Refused as below."""
        if not media_of(request.prompt):
            return None
        if self.task:
            raise Refused(f"a pool for {self.task!r} values texts, without media")
        extra = request.sampling.extra if request.sampling else {}
        arguments = self.prompts.template_arguments(template_settings(extra))
        return await rendered(self.llm, request.prompt, arguments, self.name)

    def input_for(
        self, request: Request, rendered: Any = None, *, step_by_step: bool = False
    ) -> EngineInput:
        """Return vLLM's input for a request with its depth; Refused if it cannot be served.

        `rendered` is that for its prompt, where it has media.
        """
        try:
            if self.task:
                return pooling.input_for(
                    request, self.task, self.prompts, self.context_tokens, self._pooling_params
                )
            return self._text_input(request, rendered, step_by_step)
        except self._refusals as error:
            raise Refused(str(error)) from error

    def _text_input(self, request: Request, rendered: Any, step_by_step: bool) -> EngineInput:
        suffix_ids = self.prompts.suffix_ids(request.suffix)
        sampling = request.sampling or Sampling()
        tools = self._tools(sampling) if sampling.extra else None
        if rendered is None:
            own_ids = self.prompts.ids(request.prompt, template_settings(sampling.extra))
        else:
            own_ids = rendered["prompt_token_ids"]
        prompt_ids = [*own_ids, *request.prefix_ids, *suffix_ids]
        if sampling.thinking_tokens and not self._limits_thinking:
            sampling = without_limit(sampling, self.parser, self.name)
        template = self._template(
            sampling,
            request.stop or sampling.stop,
            top_logprobs_computed(request),
            bool(request.rules) or step_by_step,
            self.prompts.keeps_special,
        )
        params = with_prompt_logprobs(template, request)
        params.seed = request.seed
        if tools is not None:
            tools.apply(params)
        n_new = request.max_new_tokens
        n_new = sampling.max_new_tokens if n_new is None else n_new
        n_new = fitting_tokens(len(prompt_ids), n_new, self.context_tokens, self.name)
        ends_by_rule = request.checkpoint is not None and n_new >= request.checkpoint
        if ends_by_rule:
            n_new = checkpoint_tokens(len(prompt_ids), n_new, self._block_tokens)
        params.max_tokens = n_new
        salt = ""
        if self._latent is not None and self._latent.max_depth > 1:
            params.extra_args = (params.extra_args or {}) | {DEPTH_ARGUMENT: request.depth}
            salt = cache_salt(request.depth or 1)
            if sampling.latent_noise:
                params.extra_args[NOISE_ARGUMENT] = sampling.latent_noise
            if self._latent.warm_start:
                params.extra_args[WARM_ARGUMENT] = True
        return EngineInput(prompt_ids, suffix_ids, params, salt, ends_by_rule, rendered, tools)

    async def submit(self, request_id: str, data: EngineInput, pool: str) -> Any:
        """Submit the input to vLLM with the adapter of a pool; return the queue of its outputs.

        Refused if vLLM's validation rejects it.
        """
        salt = {"cache_salt": data.salt} if data.salt else {}
        # a raw prompt would cross a thread pool
        whole = {"type": "token"} if data.rendered is None else data.rendered
        rendered: Any = {**whole, "prompt_token_ids": data.prompt_ids, **salt}
        try:
            adapter = self._adapters.get(pool or self.name)
            return await self.llm.add_request(
                request_id, rendered, data.params, lora_request=adapter
            )
        except self._refusals as error:
            raise Refused(f"vLLM refused the request: {error}") from error

    def watch(
        self, request: Request, queue: Any, on_text: Callable[[str], None] | None
    ) -> TokenWatch | None:
        """Return the watch of the request's tokens; None if none is needed."""
        if on_text is None and not TokenWatch.wanted(request):
            return None
        state = self.llm.output_processor.request_states.get(queue.request_id)
        return TokenWatch(request, queue, self._flat_logprobs, state, on_text)

    async def abort(self, request_id: str) -> None:
        """Stop a request in the engine; does nothing if it has ended or the engine is dead."""
        if not self.llm.errored:
            await self.llm.abort(request_id)

    async def close(self) -> None:
        """End the engine and its processes.

        vLLM's own shutdown would leave pending consumers waiting forever.
        """
        handler = self.llm.output_handler
        if handler is not None and not handler.done():
            self.llm.output_processor.propagate_error(
                EngineError(f"the vLLM engine of model pool {self.name!r} was shut down")
            )
            handler.cancel()
            await asyncio.wait([handler])
        await asyncio.to_thread(self.llm.shutdown)


def _identity(request: Request) -> tuple[object, ...]:
    # Jobs with different plans may share an engine, so problem and ordinal do not identify a
    # request.
    return (request.problem_id, request.ordinal, request.seed, request.model, request.depth)
