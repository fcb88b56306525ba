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
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.metrics import logprobs_needed
from orchestrator.core.values import Finish, Request, Sampling, Trace
from orchestrator.engines.reply import trace_for
from orchestrator.engines.vllm import pooling
from orchestrator.engines.vllm.depth import IterationCounts, take_counts
from orchestrator.engines.vllm.prompts import (
    EngineInput,
    Prompts,
    Refused,
    checkpoint_tokens,
    fitting_tokens,
    template_settings,
)
from orchestrator.engines.vllm.reply import (
    ReplyParser,
    completed,
    with_prompt_logprobs,
    with_thinking,
)
from orchestrator.engines.vllm.sampling import parameters, without_limit
from orchestrator.engines.vllm.start import host
from orchestrator.engines.vllm.watch import TokenWatch, tokens_so_far
from orchestrator.plan.looped import DEPTH_ARGUMENT, Latent, cache_salt, require_depth

_MAX_SETTINGS = 1024  # sampling settings with cached vLLM parameters


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """A started AsyncLLM and the schedule of its model."""

    llm: Any
    latent: Latent | None  # None: the stock model
    task: str = ""  # one of `core.plan.TASKS`; "": it generates text
    parser: ReplyParser | None = None  # tells thinking from reply; None: tags do
    chat_template: str = ""  # "": the model's own


class VllmEngine:
    """Serves requests with one AsyncLLM per pool; made by `Vllm.open`, used from one event loop."""

    def __init__(self, engines: Mapping[str, StartedEngine]) -> None:
        """Serve with these engines, by pool name; the first is the default pool."""
        self._pools = {name: _ModelPool(name, started) for name, started in engines.items()}
        self._running: WeakValueDictionary[tuple[object, ...], _RunningRequest]
        self._running = WeakValueDictionary()
        self._numbers = itertools.count()
        self._aborts: set[asyncio.Task[None]] = set()

    def generate(self, request: Request) -> Coroutine[Any, Any, Trace]:
        """Return the coroutine that completes `request`; from now on `abort` can stop it.

        FAILED if this request cannot be served; EngineError if the engine is dead or shut down.
        """
        running = _RunningRequest()
        self._running[_identity(request)] = running
        return self._generate(request, running)

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
        return sum(int(pool.llm.get_num_unfinished_requests()) for pool in self._pools.values())

    @property
    def n_gpus(self) -> float:
        """The number of GPUs that the engines use; 0 on a CPU."""
        return sum(pool.n_gpus for pool in self._pools.values())

    def running_tokens(self) -> int:
        """Return the output tokens so far of the requests that run."""
        return sum(
            tokens_so_far(pool.llm.output_processor.request_states) for pool in self._pools.values()
        )

    async def close(self) -> None:
        """End every engine and its processes; pending requests raise EngineError."""
        pools, self._pools = self._pools, {}
        await asyncio.gather(*(pool.close() for pool in pools.values()))

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
        try:
            pool = self._pool(request.model)
            request = pool.at_depth(request)
            data = pool.input_for(request)
            if running.aborted:
                return trace_for(request, Finish.CANCELLED, suffix_ids=data.suffix_ids)
            running.id = f"{request.problem_id}/{request.ordinal}/{next(self._numbers)}"
            running.pool = pool
            output, watch, counts = await self._output(request, running, pool, data)
        except Refused as refusal:
            return trace_for(request, Finish.FAILED, error=str(refusal))
        seconds = time.perf_counter() - started
        n_layers = pool.n_layers_run(request, counts)
        if pool.task:
            return pooling.valued(
                request, pool.task, data, output, pool.prompts.token_id, n_layers, seconds
            )
        text_of = pool.prompts.text_of
        trace = completed(request, data, output, watch, counts, n_layers, seconds, text_of)
        return with_thinking(trace, request, data, pool.prompts, pool.parser)

    async def _output(
        self, request: Request, running: _RunningRequest, pool: _ModelPool, data: EngineInput
    ) -> tuple[Any, TokenWatch | None, IterationCounts | None]:
        """Return vLLM's last output for the request, its token watch, and its iterations.

        Iterations are None without an exit rule.
        """
        try:
            queue = await pool.submit(running.id, data)
            watch = pool.watch(request, queue)
            if running.aborted:  # perhaps before vLLM knew it, so vLLM aborted nothing
                self._abort_soon(running)
            output = await queue.get()
            if watch is not None and watch.fired and not output.finished:
                self._abort_soon(running)
            counts = await pool.take_counts(queue.request_id)
        except asyncio.CancelledError:
            self._abort_soon(running)
            raise
        except (Refused, EngineError):
            raise
        except Exception as error:  # vLLM raises the engine's fatal error in every consumer
            if pool.llm.errored:
                raise host.death(pool.name) from error
            raise
        return output, watch, counts

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
        self.context_tokens: int = llm.model_config.max_model_len
        self.prompts = Prompts(llm.get_tokenizer(), name, started.chat_template)
        self._latent = started.latent
        cache = llm.vllm_config.cache_config
        self._block_tokens: int = cache.block_size if cache.enable_prefix_caching else 0
        reasoning = llm.vllm_config.reasoning_config
        self._limits_thinking = reasoning is not None and bool(reasoning.enabled)
        self._n_layers: int = llm.model_config.get_total_num_hidden_layers()
        self._refusals: tuple[type[Exception], ...]
        self._refusals = (PlanError, ValueError, TypeError, VLLMClientError)
        self._flat_logprobs, self._pooling_params = FlatLogprobs, PoolingParams
        self._template = functools.lru_cache(_MAX_SETTINGS)(parameters)

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

    def n_layers_run(self, request: Request, counts: IterationCounts | None) -> float:
        """Return the number of decoder layers that each of the request's tokens passed.

        The mean over its tokens if an exit rule let them differ.
        """
        if self._latent is None:
            return self._n_layers
        schedule = self._latent.schedule
        if counts is None:
            return schedule.n_layers_run(request.depth or 1)
        return schedule.n_layers_run(0) + len(schedule.think) * counts.mean_of_all

    async def take_counts(self, request_id: str) -> IterationCounts | None:
        """Return, once, the iterations that vLLM's request took.

        None if there is no exit rule, or nothing has run.
        """
        if self._latent is None or not self._latent.exit:
            return None
        return await take_counts(self.llm, request_id)

    def input_for(self, request: Request) -> EngineInput:
        """Return vLLM's input for a request with its depth; Refused if it cannot be served."""
        try:
            if self.task:
                return pooling.input_for(
                    request, self.task, self.prompts, self.context_tokens, self._pooling_params
                )
            return self._text_input(request)
        except self._refusals as error:
            raise Refused(str(error)) from error

    def _text_input(self, request: Request) -> EngineInput:
        suffix_ids = self.prompts.suffix_ids(request.suffix)
        sampling = request.sampling or Sampling()
        own_ids = self.prompts.ids(request.prompt, template_settings(sampling.extra))
        prompt_ids = [*own_ids, *request.prefix_ids, *suffix_ids]
        if sampling.thinking_tokens and not self._limits_thinking:
            sampling = without_limit(sampling, self.parser, self.name)
        template = self._template(
            sampling,
            request.stop or sampling.stop,
            logprobs_needed(request.metrics, request.rules),
            bool(request.rules),
            self.prompts.keeps_special,
        )
        params = with_prompt_logprobs(template, request)
        params.seed = request.seed
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
        return EngineInput(prompt_ids, suffix_ids, params, salt, ends_by_rule)

    async def submit(self, request_id: str, data: EngineInput) -> Any:
        """Submit the input to vLLM and return the queue of its outputs.

        Refused if vLLM's validation rejects it.
        """
        salt = {"cache_salt": data.salt} if data.salt else {}
        # a raw prompt would cross a thread pool
        rendered: Any = {"type": "token", "prompt_token_ids": data.prompt_ids, **salt}
        try:
            return await self.llm.add_request(request_id, rendered, data.params)
        except self._refusals as error:
            raise Refused(f"vLLM refused the request: {error}") from error

    def watch(self, request: Request, queue: Any) -> TokenWatch | None:
        """Return the watch of the request's tokens; None if none is needed."""
        if not TokenWatch.wanted(request):
            return None
        state = self.llm.output_processor.request_states.get(queue.request_id)
        return TokenWatch(request, queue, self._flat_logprobs, state)

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
