"""vLLM's AsyncLLM as an Engine: one per model pool, in this process, on a GPU or a CPU. The only
importer of vllm.

One vLLM request per Request, with a seed, a stop and a cancellation of its own. Nothing is kept of
a finished request, and nothing runs per token here unless metrics or stop rules are asked for
(`vllm_watch`). vllm and torch are imported when an engine is opened, never with this module. It
places no requests and restarts no engine: that is `ray_fleet`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.metrics import logprobs_needed
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, Request, Sampling, Trace
from orchestrator.engines.reply import trace_for
from orchestrator.engines.vllm import depth as vllm_latent
from orchestrator.engines.vllm import host as vllm_host
from orchestrator.engines.vllm import pooling as vllm_pooling
from orchestrator.engines.vllm import reply as vllm_forced
from orchestrator.engines.vllm.depth import IterationCounts
from orchestrator.engines.vllm.prompts import (
    Job,
    Prompts,
    Refused,
    checkpoint_tokens,
    fitting_tokens,
)
from orchestrator.engines.vllm.reply import completed, measured
from orchestrator.engines.vllm.watch import Watch
from orchestrator.plan.looped import DEPTH_ARGUMENT, Latent, cache_salt, require_depth
from orchestrator.plan.models import resolve_model

_KEPT_SETTINGS = 1024  # of sampling


@dataclass(frozen=True, slots=True)
class Vllm:
    """Options of a vLLM engine; 0 and "auto" leave the choice to the rule beside the option.

    A script that opens an engine in its own process needs `if __name__ == "__main__":`, because
    vLLM spawns processes.
    """

    dtype: str = (
        "auto"  # on a GPU as the model ships; on a CPU the faster one (`vllm_host.cpu_dtype`)
    )
    kv_cache_gib: float = (
        0.0  # 0: what gpu_memory_utilization leaves; on a CPU a quarter of what is free, at most 4
    )
    gpu_memory_utilization: float = (
        0.9  # of all pools together: each gets an equal share, unless `pools` gives it one
    )
    tensor_parallel: int = 1
    max_num_seqs: int = 0  # sequences in one batch; 0: vLLM's choice for the device
    enforce_eager: bool | None = (
        None  # None: compiled on a GPU, eager on a CPU (see `vllm_host.cpu_arguments`)
    )
    threads: int = (
        0  # OpenMP threads of a worker on a CPU; 0: one fewer than the CPUs this process may use
    )
    prefix_caching: bool = True
    seed: int = 0  # of the engine; a request's own seed decides its tokens
    # other options for single pools, by name
    pools: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    # log-probabilities after temperature, top_k and the like, as drawn from; else the model's own
    processed_logprobs: bool = False

    def __post_init__(self) -> None:
        # that options of single pools are known, and of the right types
        vllm_host.by_pool(self, self.pools)

    def capabilities(self) -> frozenset[Capability]:
        """Return what the engine can do."""
        return frozenset(Capability)

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[VllmEngine]:
        """Return a context that starts one engine per pool and shuts all of them down.

        On entry: PlanError when a model cannot be used, EngineError when an engine does not start.
        """
        return _opened(self, models)


class VllmEngine:
    """Serves requests with one AsyncLLM per pool. Made by `Vllm.open`; used from one event loop."""

    def __init__(self, engines: Mapping[str, _Started]) -> None:
        """Serve with these engines, by pool name; the first is the default pool."""
        self._pools = {name: _Pool(name, started) for name, started in engines.items()}
        self._flights: WeakValueDictionary[tuple[object, ...], _Flight] = WeakValueDictionary()
        self._numbers = itertools.count()
        self._aborts: set[asyncio.Task[None]] = set()

    def generate(self, request: Request) -> Coroutine[Any, Any, Trace]:
        """Return the coroutine that completes `request`; `abort` finds it from now on, even before
        its first step.

        FAILED when this request cannot be served; EngineError when the engine is dead or shut down.
        """
        flight = _Flight()
        self._flights[_identity(request)] = flight
        return self._generate(request, flight)

    def abort(self, request: Request) -> None:
        """Stop `request` at once: its pending `generate` returns a CANCELLED trace.

        Unknown and finished ones are ignored.
        """
        flight = self._flights.get(_identity(request))
        if flight is not None and not flight.aborted:
            flight.aborted = True
            if flight.pool is not None:
                self._abort_soon(flight)

    async def health(self) -> None:
        """Return when every engine lives; EngineError naming the pool of one that does not."""
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
        """End every engine and its processes; what is still pending raises EngineError."""
        pools, self._pools = self._pools, {}
        await asyncio.gather(*(pool.close() for pool in pools.values()))

    def _living_pools(self) -> dict[str, _Pool]:
        if not self._pools:
            raise EngineError("the vLLM engine was shut down")
        return self._pools

    def _pool(self, name: str) -> _Pool:
        pools = self._living_pools()
        if not name:
            return next(iter(pools.values()))
        if name not in pools:
            raise Refused(f"there is no model pool {name!r}; there are: {', '.join(pools)}")
        return pools[name]

    async def _generate(self, request: Request, flight: _Flight) -> Trace:
        started = time.perf_counter()
        try:
            pool = self._pool(request.model)
            request = pool.at_depth(request)
            job = pool.job(request)
            if flight.aborted:
                return trace_for(request, Finish.CANCELLED, suffix_ids=job.suffix_ids)
            flight.id = f"{request.problem_id}/{request.ordinal}/{next(self._numbers)}"
            flight.pool = pool
            output, watch, counts = await self._followed(request, flight, pool, job)
        except Refused as refusal:
            return trace_for(request, Finish.FAILED, error=str(refusal))
        seconds = time.perf_counter() - started
        n_layers = pool.n_layers_run(request, counts)
        if pool.task:
            return vllm_pooling.valued(
                request, pool.task, job, output, pool.prompts.token_id, n_layers, seconds
            )
        measures, text_of = measured(counts), pool.prompts.text_of
        trace = completed(
            request,
            job.prompt_ids,
            job.suffix_ids,
            output,
            watch,
            n_layers,
            seconds,
            measures,
            text_of,
        )
        return (
            replace(trace, finish=Finish.RULE)
            if job.ends_by_rule and trace.finish is Finish.LENGTH
            else trace
        )

    async def _followed(
        self, request: Request, flight: _Flight, pool: _Pool, job: Job
    ) -> tuple[Any, Watch | None, IterationCounts | None]:
        """Return vLLM's last output for the request, what watched it, and its iterations where a
        rule decides about them.
        """
        try:
            queue = await pool.submit(flight.id, job)
            watch = pool.watch(request, queue)
            if flight.aborted:  # perhaps before vLLM knew it, and then nothing was aborted there
                self._abort_soon(flight)
            output = await queue.get()
            if watch is not None and watch.fired and not output.finished:
                self._abort_soon(flight)
            counts = await pool.take_counts(queue.request_id)
        except asyncio.CancelledError:
            self._abort_soon(flight)
            raise
        except (Refused, EngineError):
            raise
        except Exception as error:  # vLLM hands every consumer whatever ended its engine
            if pool.llm.errored:
                raise pool.death() from error
            raise
        return output, watch, counts

    def _abort_soon(self, flight: _Flight) -> None:
        # A task of its own: aborting sends a message, and the caller may be cancelled again. The
        # set keeps the task alive.
        assert flight.pool is not None
        task = asyncio.get_running_loop().create_task(flight.pool.abort(flight.id))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)


class _Flight:
    """A request on its way.

    Only its coroutine holds it, so nothing stays when that is done or dropped unstarted.
    """

    __slots__ = ("__weakref__", "aborted", "id", "pool")

    def __init__(self) -> None:
        self.aborted = False
        self.id = ""
        self.pool: _Pool | None = None  # set when the request is handed to vLLM


@dataclass(frozen=True, slots=True)
class _Started:
    """A started AsyncLLM, and how its model runs; `latent` None: as vLLM has it."""

    llm: Any
    latent: Latent | None
    task: str = ""  # of `core.plan.TASKS`; "": it writes text


class _Pool:
    """One started AsyncLLM, with what turns requests into its input."""

    def __init__(self, name: str, started: _Started) -> None:
        from vllm import PoolingParams
        from vllm.exceptions import VLLMClientError
        from vllm.logprobs import FlatLogprobs

        self.llm = llm = started.llm
        self.task = started.task
        self.context_tokens: int = llm.model_config.max_model_len
        self._latent = started.latent
        cache = llm.vllm_config.cache_config
        self._block_tokens: int = cache.block_size if cache.enable_prefix_caching else 0
        self._n_layers: int = llm.model_config.get_total_num_hidden_layers()
        self._name = name
        self._refusals: tuple[type[Exception], ...] = (
            PlanError,
            ValueError,
            TypeError,
            VLLMClientError,
        )
        self._flat_logprobs, self._pooling_params = FlatLogprobs, PoolingParams
        self.prompts = Prompts(llm.get_tokenizer(), name)
        self._template = functools.lru_cache(_KEPT_SETTINGS)(_sampling_params)

    def at_depth(self, request: Request) -> Request:
        """Return the request with the depth that it will run at, None for a model without a
        schedule. Refused beyond what is served.
        """
        if self.task or request.depth is None:
            return request if self._latent is None else replace(request, depth=self._latent.depth)
        try:
            require_depth(request.depth, self._latent, "the request")
        except PlanError as error:
            raise Refused(str(error)) from error
        return request

    def n_layers_run(self, request: Request, counts: IterationCounts | None) -> float:
        """Return how many decoder layers each of the request's tokens passed, the mean of them
        where an exit rule let them differ.
        """
        if self._latent is None:
            return self._n_layers
        schedule = self._latent.schedule
        if counts is None:
            return schedule.n_layers_run(request.depth or 1)
        return schedule.n_layers_run(0) + len(schedule.think) * counts.mean_of_all

    async def take_counts(self, request_id: str) -> IterationCounts | None:
        """Return the iterations that vLLM's request took, once; None when no exit rule decides
        about them, or nothing has run.
        """
        if self._latent is None or not self._latent.exit:
            return None
        return await vllm_latent.taken_counts(self.llm, request_id)

    def job(self, request: Request) -> Job:
        """Return what vLLM is to be given, for a request with its depth; Refused when it cannot be
        served.
        """
        try:
            if self.task:
                return vllm_pooling.job(
                    request, self.task, self.prompts, self.context_tokens, self._pooling_params
                )
            suffix_ids = self.prompts.suffix_ids(request.suffix)
            prompt_ids = [*self.prompts.ids(request.prompt), *request.prefix_ids, *suffix_ids]
            sampling = request.sampling or Sampling()
            n_logprobs = logprobs_needed(request.metrics, request.rules)
            template = self._template(
                sampling, request.stop or sampling.stop, n_logprobs, bool(request.rules)
            )
        except self._refusals as error:
            raise Refused(str(error)) from error
        wanted = (
            sampling.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        )
        params = vllm_forced.parameters(template, request)
        params.seed = request.seed
        params.max_tokens = fitting = fitting_tokens(
            len(prompt_ids), wanted, self.context_tokens, self._name
        )
        ends_by_rule = request.checkpoint is not None and fitting >= request.checkpoint
        if ends_by_rule:
            params.max_tokens = checkpoint_tokens(len(prompt_ids), fitting, self._block_tokens)
        salt = ""
        if self._latent is not None and self._latent.max_depth > 1:
            params.extra_args = {DEPTH_ARGUMENT: request.depth}
            salt = cache_salt(request.depth or 1)
        return Job(prompt_ids, suffix_ids, params, salt, ends_by_rule)

    async def submit(self, request_id: str, job: Job) -> Any:
        """Hand the job to vLLM and return the queue of its outputs; Refused when vLLM's validation
        objects.
        """
        salt = {"cache_salt": job.salt} if job.salt else {}
        # a raw prompt would cross a thread pool
        rendered: Any = {"type": "token", "prompt_token_ids": job.prompt_ids, **salt}
        try:
            return await self.llm.add_request(request_id, rendered, job.params)
        except self._refusals as error:
            raise Refused(f"vLLM refused the request: {error}") from error

    def watch(self, request: Request, queue: Any) -> Watch | None:
        """Return what follows the request's tokens; None when nothing has to."""
        if not Watch.wanted(request):
            return None
        return Watch(
            request,
            queue,
            self._flat_logprobs,
            self.llm.output_processor.request_states.get(queue.request_id),
        )

    async def abort(self, request_id: str) -> None:
        """Stop a request in the engine; harmless when it has ended or the engine is dead."""
        if not self.llm.errored:
            await self.llm.abort(request_id)

    def death(self) -> EngineError:
        """Return the error that says that this pool's engine is dead."""
        return vllm_host.death(self._name)

    async def close(self) -> None:
        """End the engine and its processes. vLLM's own shutdown would leave pending consumers
        waiting for ever.
        """
        handler = self.llm.output_handler
        if handler is not None and not handler.done():
            self.llm.output_processor.propagate_error(
                EngineError(f"the vLLM engine of model pool {self._name!r} was shut down")
            )
            handler.cancel()
            await asyncio.wait([handler])
        await asyncio.to_thread(self.llm.shutdown)


def _identity(request: Request) -> tuple[object, ...]:
    # Jobs with plans of their own may share an engine, so problem and ordinal alone are not enough.
    return (request.problem_id, request.ordinal, request.seed, request.model, request.depth)


def _sampling_params(
    sampling: Sampling, stop: tuple[str, ...], n_logprobs: int | None, followed: bool
) -> Any:
    """Return vLLM's parameters without seed and length: made once per setting, copied for each
    request.
    """
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


@asynccontextmanager
async def _opened(options: Vllm, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
    own = vllm_host.by_pool(options, models)
    engines: dict[str, _Started] = {}
    try:
        for name, model in models.items():
            engines[name] = await _started(own[name], name, model, len(models) - len(engines))
    except BaseException:  # a cancellation too: engines that did start must not stay behind
        await VllmEngine(engines).close()
        raise
    engine = VllmEngine(engines)
    engines.clear()
    try:
        yield engine
    finally:
        await engine.close()


async def _started(options: Vllm, name: str, model: Model, n_pools_left: int) -> _Started:
    # before vLLM is imported, which takes a while
    path = await asyncio.to_thread(resolve_model, model.path)
    # On its own: something in vLLM keeps the frames in which it was imported for ever, and with
    # them what those hold.
    await asyncio.to_thread(_import_vllm)
    starting = asyncio.create_task(
        asyncio.to_thread(_start, options, name, model, path, n_pools_left)
    )
    try:
        started = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: wait for what it starts, or its processes would stay behind.
        await asyncio.wait([starting])
        if starting.exception() is None:
            starting.result().llm.shutdown()
        raise
    # vLLM keeps the answer: no request will wait for it from an engine that has died
    tasks = await started.llm.get_supported_tasks()
    with vllm_host.or_ended(started.llm):
        vllm_pooling.require_task(name, model, tasks)
    return started


def _import_vllm() -> None:
    with vllm_host.environment(threads=0):
        try:
            import vllm.v1.engine.async_llm  # noqa: F401
        except ModuleNotFoundError as error:
            raise PlanError(
                f"vLLM is not installed ({error}): pip install 'leadline[cpu]' or, with a GPU, 'leadline[cuda]'"
            ) from error


def _start(options: Vllm, name: str, model: Model, path: str, n_pools_left: int) -> _Started:
    """Return a started engine; blocks for a minute or so. PlanError, EngineError."""
    with vllm_host.environment(options.threads):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = vllm_host.engine_arguments(options, model, path)
        if current_platform.is_cpu():
            arguments |= vllm_host.cpu_arguments(options, vllm_host.free_bytes() // n_pools_left)
        latent = None if model.task else vllm_latent.prepared(options, name, model, path, arguments)
        try:
            config = vllm_host.without_worker_process(
                AsyncEngineArgs(**arguments).create_engine_config()
            )
        except (ValueError, OSError) as error:
            raise PlanError(
                f"model {model.path!r} of pool {name!r} cannot be used: {error}"
            ) from error
        wanted_tokens = config.model_config.max_model_len
        try:
            llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # whatever its processes said on their way down
            raise EngineError(
                f"the vLLM engine of model pool {name!r} ({model.path}) did not start: {error} The reason is in the log above "
                "(LEADLINE_VLLM_LOG=INFO shows more)"
            ) from error
    with vllm_host.or_ended(llm):
        vllm_host.require_context(name, llm.model_config.max_model_len, wanted_tokens)
    return _Started(llm, latent, model.task)
