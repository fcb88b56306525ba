"""vLLM's AsyncLLM as an Engine: one per model pool, in this process, on a GPU or a CPU. The only importer of vllm.

One vLLM request per Request, with a seed, a stop and a cancellation of its own. Nothing is kept of a finished request, and nothing
runs per token here unless metrics or stop rules are asked for (`vllm_watch`). vllm and torch are imported when an engine is opened,
never with this module. It places no requests and restarts no engine: that is `ray_fleet`.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from orchestrator.backends import vllm_host
from orchestrator.backends.vllm_watch import Watch
from orchestrator.core.errors import FleetError, PlanError
from orchestrator.core.folds import logprobs_needed
from orchestrator.core.plan import Model
from orchestrator.core.replies import reply_to, without_stop
from orchestrator.core.types import Capability, Finish, Message, Prompt, Request, Sampling, Trace, Usage, changed
from orchestrator.embedded import resolve_model

_KEPT_PROMPTS = 1024  # prompts kept as token ids: the n traces of a problem start close together
_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": Finish.CANCELLED}


@dataclass(frozen=True, slots=True)
class Vllm:
    """Options of a vLLM engine; 0 and "auto" leave the choice to the rule beside the option.

    A script that opens an engine in its own process needs `if __name__ == "__main__":`, because vLLM spawns processes.
    """

    dtype: str = "auto"  # on a GPU as the model ships; on a CPU the faster one (`vllm_host.cpu_dtype`)
    kv_cache_gib: float = 0.0  # 0: what gpu_memory_utilization leaves; on a CPU a quarter of what is free, at most 4
    gpu_memory_utilization: float = 0.9
    tensor_parallel: int = 1
    max_num_seqs: int = 0  # sequences in one batch; 0: vLLM's choice for the device
    enforce_eager: bool | None = None  # None: compiled on a GPU, eager on a CPU (see `vllm_host.cpu_arguments`)
    threads: int = 0  # OpenMP threads of a worker on a CPU; 0: one fewer than the CPUs this process may use
    prefix_caching: bool = True
    seed: int = 0  # of the engine; a request's own seed decides its tokens
    processed_logprobs: bool = False  # log-probabilities after temperature, top_k and the like, as drawn from; else the model's own

    def capabilities(self) -> frozenset[Capability]:
        """Return what the engine can do."""
        return frozenset(Capability) - {Capability.DEPTH}

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[VllmEngine]:
        """Return a context that starts one engine per pool and shuts all of them down.

        On entry: PlanError when a model cannot be used, FleetError when an engine does not start.
        """
        return _opened(self, models)


class VllmEngine:
    """Serves requests with one AsyncLLM per pool. Made by `Vllm.open`; used from one event loop."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        """Serve with these started AsyncLLM engines, by pool name; the first is the default pool."""
        self._pools = {name: _Pool(name, llm) for name, llm in engines.items()}
        self._flights: WeakValueDictionary[tuple[object, ...], _Flight] = WeakValueDictionary()
        self._numbers = itertools.count()
        self._aborts: set[asyncio.Task[None]] = set()

    def generate(self, request: Request) -> Coroutine[Any, Any, Trace]:
        """Return the coroutine that completes `request`; `abort` finds it from now on, even before its first step.

        FAILED when this request cannot be served; FleetError when the engine is dead or shut down.
        """
        flight = _Flight()
        self._flights[_identity(request)] = flight
        return self._generate(request, flight)

    def abort(self, request: Request) -> None:
        """Stop `request` at once: its pending `generate` returns a CANCELLED trace. Unknown and finished ones are ignored."""
        flight = self._flights.get(_identity(request))
        if flight is not None and not flight.aborted:
            flight.aborted = True
            if flight.pool is not None:
                self._abort_soon(flight)

    async def health(self) -> None:
        """Return when every engine lives; FleetError naming the pool of one that does not."""
        for pool in self._living_pools().values():
            if pool.llm.errored:
                raise pool.death()

    def context_tokens(self, model: str = "") -> int:
        """Return how many tokens, prompt and completion together, a request of this pool may have."""
        return self._pool(model).context_tokens

    def n_running(self) -> int:
        """Return how many requests the engines hold, waiting ones included."""
        return sum(int(pool.llm.get_num_unfinished_requests()) for pool in self._pools.values())

    async def close(self) -> None:
        """End every engine and its processes; what is still pending raises FleetError."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close()

    def _living_pools(self) -> dict[str, _Pool]:
        if not self._pools:
            raise FleetError("the vLLM engine was shut down")
        return self._pools

    def _pool(self, name: str) -> _Pool:
        pools = self._living_pools()
        if not name:
            return next(iter(pools.values()))
        if name not in pools:
            raise _Refused(f"there is no model pool {name!r}; there are: {', '.join(pools)}")
        return pools[name]

    async def _generate(self, request: Request, flight: _Flight) -> Trace:
        started = time.perf_counter()
        try:
            pool = self._pool(request.model)
            job = pool.job(request)
            if flight.aborted:
                return reply_to(request, Finish.CANCELLED, suffix_ids=job.suffix_ids)
            flight.id = f"{request.problem_id}/{request.ordinal}/{next(self._numbers)}"
            flight.pool = pool
            output, watch = await self._followed(request, flight, pool, job)
        except _Refused as refusal:
            return reply_to(request, Finish.FAILED, error=str(refusal))
        trace = _completed(request, job, output, watch, pool.n_layers, time.perf_counter() - started)
        return pool.stopped(trace, output.outputs[0].stop_reason)

    async def _followed(self, request: Request, flight: _Flight, pool: _Pool, job: _Job) -> tuple[Any, Watch | None]:
        """Return vLLM's last output for the request, and what watched it."""
        try:
            queue = await pool.submit(flight.id, job)
            watch = pool.watch(request, queue)
            if flight.aborted:  # perhaps before vLLM knew it, and then nothing was aborted there
                self._abort_soon(flight)
            output = await queue.get()
        except asyncio.CancelledError:
            self._abort_soon(flight)
            raise
        except (_Refused, FleetError):
            raise
        except Exception as error:  # vLLM hands every consumer whatever ended its engine
            if pool.llm.errored:
                raise pool.death() from error
            raise
        if watch is not None and watch.fired and not output.finished:
            self._abort_soon(flight)
        return output, watch

    def _abort_soon(self, flight: _Flight) -> None:
        # A task of its own: aborting sends a message, and the caller may be cancelled again. The set keeps the task alive.
        assert flight.pool is not None
        task = asyncio.get_running_loop().create_task(flight.pool.abort(flight.id))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)


class _Refused(Exception):
    """This request cannot be served; the text is for the user."""


class _Flight:
    """A request on its way. Only its coroutine holds it, so nothing stays when that is done or dropped unstarted."""

    __slots__ = ("__weakref__", "aborted", "id", "pool")

    def __init__(self) -> None:
        self.aborted = False
        self.id = ""
        self.pool: _Pool | None = None  # set when the request is handed to vLLM


@dataclass(frozen=True, slots=True)
class _Job:
    prompt_ids: list[int]
    suffix_ids: tuple[int, ...]
    params: Any


class _Pool:
    """One started AsyncLLM, with what turns requests into its input."""

    def __init__(self, name: str, llm: Any) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.logprobs import FlatLogprobs

        self.llm = llm
        self.context_tokens: int = llm.model_config.max_model_len
        self.n_layers: int = llm.model_config.get_total_num_hidden_layers()
        self._name = name
        self._tokenizer = llm.get_tokenizer()
        self._refusals: tuple[type[Exception], ...] = (PlanError, ValueError, TypeError, VLLMClientError)
        self._flat_logprobs: type = FlatLogprobs
        self._prompt_ids = functools.lru_cache(_KEPT_PROMPTS)(self._render)
        self._suffix_ids = functools.lru_cache(_KEPT_PROMPTS)(self._encode_suffix)
        self._template = functools.lru_cache(_KEPT_PROMPTS)(_sampling_params)

    def job(self, request: Request) -> _Job:
        """Return what vLLM is to be given; _Refused when the request cannot be served."""
        if request.depth is not None:
            raise _Refused(f"latent depth {request.depth} was asked for; this engine runs models at the depth they ship with")
        try:
            suffix_ids = self._suffix_ids(request.suffix) if request.suffix else ()
            prompt_ids = [*self._prompt_ids(request.prompt), *request.prefix_ids, *suffix_ids]
            sampling = request.sampling or Sampling()
            n_logprobs = logprobs_needed(request.metrics, request.rules)
            template = self._template(sampling, request.stop or sampling.stop, n_logprobs, bool(request.rules))
        except self._refusals as error:
            raise _Refused(str(error)) from error
        wanted = sampling.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        params = copy.copy(template)
        params.seed = request.seed
        params.max_tokens = fitting_tokens(len(prompt_ids), wanted, self.context_tokens, self._name)
        return _Job(prompt_ids, suffix_ids, params)

    async def submit(self, request_id: str, job: _Job) -> Any:
        """Hand the job to vLLM and return the queue of its outputs; _Refused when vLLM's validation objects."""
        rendered = {"type": "token", "prompt_token_ids": job.prompt_ids}  # a raw prompt would cross a thread pool
        try:
            return await self.llm.add_request(request_id, rendered, job.params)
        except self._refusals as error:
            raise _Refused(f"vLLM refused the request: {error}") from error

    def stopped(self, trace: Trace, reason: object) -> Trace:
        """Return the trace without the tokens of the stop string that ended it; vLLM leaves that out of the text alone."""
        if not isinstance(reason, str) or trace.finish is not Finish.STOP:  # None at the end of the sequence, a number for a stop token
            return trace
        return changed(trace, stop=reason, token_ids=without_stop(trace.token_ids, reason, lambda ids: self._tokenizer.decode(list(ids))))

    def watch(self, request: Request, queue: Any) -> Watch | None:
        """Return what follows the request's tokens; None when nothing has to."""
        if not Watch.wanted(request):
            return None
        return Watch(request, queue, self._flat_logprobs, self.llm.output_processor.request_states.get(queue.request_id))

    async def abort(self, request_id: str) -> None:
        """Stop a request in the engine; harmless when it has ended or the engine is dead."""
        if not self.llm.errored:
            await self.llm.abort(request_id)

    def death(self) -> FleetError:
        """Return the error that says that this pool's engine is dead."""
        return FleetError(
            f"the vLLM engine of model pool {self._name!r} died; the reason is in the log above (LEADLINE_VLLM_LOG=INFO shows "
            "more). A process that was killed for its memory leaves none: then set a lower kv_cache_gib or max_num_seqs"
        )

    async def close(self) -> None:
        """End the engine and its processes. vLLM's own shutdown would leave pending consumers waiting for ever."""
        handler = self.llm.output_handler
        if handler is not None and not handler.done():
            self.llm.output_processor.propagate_error(FleetError(f"the vLLM engine of model pool {self._name!r} was shut down"))
            handler.cancel()
            await asyncio.wait([handler])
        await asyncio.to_thread(self.llm.shutdown)
        # They refer to us: without this, the engine would live on until some collection, perhaps at exit, where its end fails noisily.
        del self._prompt_ids, self._suffix_ids

    def _render(self, prompt: Prompt) -> tuple[int, ...]:
        if getattr(self._tokenizer, "chat_template", None):
            messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
            chat = [{"role": m.role, "content": m.content} for m in messages]
            text = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))  # the template has written them
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        raise _Refused(
            f"the model of pool {self._name!r} has no chat template: it takes plain prompts, not messages. Put the instruction "
            "into sampling.template instead of sampling.system, or choose an instruction-tuned model"
        )

    def _encode_suffix(self, suffix: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(suffix, add_special_tokens=False))


def fitting_tokens(n_prompt: int, wanted: int, context_tokens: int, pool: str) -> int:
    """Return how many new tokens there is room for, at most `wanted`; refuses a prompt that leaves none."""
    if wanted < 1:
        raise _Refused(f"max_new_tokens is {wanted}; it must be at least 1")
    if n_prompt >= context_tokens:
        raise _Refused(
            f"the prompt has {n_prompt} tokens and the context of model pool {pool!r} holds {context_tokens}, answer included: "
            "shorten the prompt, raise max_context_tokens if the model allows it, or choose another model"
        )
    return min(wanted, context_tokens - n_prompt)


def _identity(request: Request) -> tuple[object, ...]:
    # Jobs with plans of their own may share an engine, so problem and ordinal alone are not enough.
    return (request.problem_id, request.ordinal, request.seed, request.model, request.depth)


def _sampling_params(sampling: Sampling, stop: tuple[str, ...], n_logprobs: int | None, followed: bool) -> Any:
    """Return vLLM's parameters without seed and length: made once per setting, copied for each request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        stop=list(stop),
        logprobs=n_logprobs,
        flat_logprobs=True,
        # Only a rule has to see every step; else vLLM makes one output, at the end.
        output_kind=RequestOutputKind.DELTA if followed else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # else vLLM copies deeply, once per request
    )


def _completed(request: Request, job: _Job, output: Any, watch: Watch | None, n_layers: int, seconds: float) -> Trace:
    last = output.outputs[0]
    text, ids = last.text, tuple(last.token_ids)
    finish = _FINISHES.get(last.finish_reason, Finish.FAILED)
    if watch is not None and watch.text is not None:
        text, ids = watch.text, watch.ids
        finish = Finish.RULE if watch.fired else finish
    n_prompt, n_cached = len(job.prompt_ids), output.num_cached_tokens or 0
    # A request that is cancelled before its first token is charged its whole prompt: an upper bound.
    usage = Usage(n_prompt, n_cached, len(ids), (n_prompt - n_cached + len(ids)) * n_layers, seconds)
    return reply_to(
        request,
        finish,
        text=text,
        token_ids=ids,
        usage=usage,
        metrics={} if watch is None else watch.metrics(request.metrics, output, len(ids)),
        suffix_ids=job.suffix_ids,
        error="" if finish is not Finish.FAILED else f"vLLM ended the request with {last.finish_reason!r}",
    )


@asynccontextmanager
async def _opened(options: Vllm, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
    engines: dict[str, Any] = {}
    try:
        for name, model in models.items():
            engines[name] = await _started(options, name, model, len(models) - len(engines))
    except BaseException:  # a cancellation too: engines that did start must not stay behind
        await VllmEngine(engines).close()
        raise
    engine = VllmEngine(engines)
    engines.clear()
    try:
        yield engine
    finally:
        await engine.close()


async def _started(options: Vllm, name: str, model: Model, n_pools_left: int) -> Any:
    # On its own: something in vLLM keeps the frames in which it was imported for ever, and with them what those hold.
    await asyncio.to_thread(_import_vllm)
    starting = asyncio.create_task(asyncio.to_thread(_start, options, name, model, n_pools_left))
    try:
        llm = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: wait for what it starts, or its processes would stay behind.
        await asyncio.wait([starting])
        if starting.exception() is None:
            starting.result().shutdown()
        raise
    await llm.get_supported_tasks()  # vLLM keeps the answer: no request will wait for it from an engine that has died
    return llm


def _import_vllm() -> None:
    with vllm_host.environment(threads=0):
        import vllm.v1.engine.async_llm  # noqa: F401


def _start(options: Vllm, name: str, model: Model, n_pools_left: int) -> Any:
    """Return a started AsyncLLM; blocks for a minute or so. PlanError, FleetError."""
    path = resolve_model(model.path)
    with vllm_host.environment(options.threads):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = vllm_host.engine_arguments(options, model, path)
        if current_platform.is_cpu():
            arguments |= vllm_host.cpu_arguments(options, vllm_host.free_bytes() // n_pools_left)
        try:
            config = AsyncEngineArgs(**arguments).create_engine_config()
        except (ValueError, OSError) as error:
            raise PlanError(f"model {model.path!r} of pool {name!r} cannot be used: {error}") from error
        wanted_tokens = config.model_config.max_model_len
        try:
            llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # whatever its processes said on their way down
            raise FleetError(
                f"the vLLM engine of model pool {name!r} ({model.path}) did not start: {error} "
                "The reason is in the log above (LEADLINE_VLLM_LOG=INFO shows more)"
            ) from error
    fitted_tokens = llm.model_config.max_model_len
    if fitted_tokens < wanted_tokens:
        llm.shutdown()
        raise FleetError(
            f"the KV cache of model pool {name!r} holds {fitted_tokens} tokens, and the model's context is {wanted_tokens}: "
            f"set max_context_tokens = {fitted_tokens} or less for the pool, or give more memory (kv_cache_gib, "
            "gpu_memory_utilization)"
        )
    return llm
