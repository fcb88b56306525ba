"""vLLM's AsyncLLM as an Engine: one per model pool, in this process, on a GPU or the CPU. The only importer of vllm.

One vLLM request per Request, with a seed, a cancellation and a stop of its own. Log-probabilities become named scalars and stop rules
fire where tokens are detokenised; neither is sent on. vllm and torch are imported when an engine is opened, never with this module.

Three objects of vLLM 0.32 are touched that it does not call public, all in `_watch`: the output processor's state of a request, its
queue and its container of log-probabilities. This file does not place requests or restart engines: that is `ray_fleet`.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from orchestrator.core.errors import FleetError, PlanError
from orchestrator.core.folds import TOP_K, RuleFold, logprobs_needed, metric_values
from orchestrator.core.plan import Model
from orchestrator.core.types import (
    Capability,
    ConfidenceFloor,
    Finish,
    Message,
    Prompt,
    Request,
    Sampling,
    StopRule,
    Trace,
    Usage,
)
from orchestrator.embedded import resolve_model

_log = logging.getLogger(__name__)
_GIB = 1 << 30
_RENDERED_PROMPTS = 1024  # prompts kept as token ids; the n traces of a problem start close together
_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": Finish.CANCELLED, "repetition": Finish.STOP}


@dataclass(frozen=True, slots=True)
class Vllm:
    """Options of a vLLM engine; 0 and "auto" leave the choice to the rule stated beside the option.

    A script that opens an engine in its own process needs the usual `if __name__ == "__main__":`, because vLLM spawns processes.
    """

    dtype: str = "auto"  # on a GPU as the model ships; on a CPU see `cpu_dtype`
    kv_cache_gib: float = (
        0.0  # 0: on a GPU what gpu_memory_utilization leaves; on a CPU a quarter of free memory, at most 4
    )
    gpu_memory_utilization: float = 0.9
    tensor_parallel: int = 1
    max_num_seqs: int = 0  # sequences in one batch; 0: vLLM's choice for the device
    enforce_eager: bool = False  # True starts sooner and decodes slower
    threads: int = 0  # CPU only: OpenMP threads of each worker; 0: as many as CPUs this process may use
    prefix_caching: bool = True
    seed: int = 0  # of the engine; a request's own seed decides its tokens

    def capabilities(self) -> frozenset[Capability]:
        """Return what the engine can do."""
        known = Capability
        return frozenset((known.SEED, known.CANCEL, known.CONTINUE, known.LOGPROBS, known.RULES))

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[VllmEngine]:
        """Return a context that starts one engine per pool and shuts all of them down.

        On entry: PlanError when a model cannot be read, FleetError when an engine does not start.
        """
        return _opened(self, models)


class VllmEngine:
    """Serves requests with the engines of its pools. Made by `Vllm.open`; used from one event loop."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        """Serve with these started AsyncLLM engines by pool name; the first is the default pool."""
        self._pools = {name: _Pool(name, llm) for name, llm in engines.items()}
        self._flights: WeakValueDictionary[tuple[object, ...], _Flight] = WeakValueDictionary()
        self._numbers = itertools.count()
        self._aborts: set[asyncio.Task[None]] = set()

    def generate(self, request: Request) -> Coroutine[Any, Any, Trace]:
        """Return the coroutine that completes `request`. `abort` finds it from now on, even before its first step.

        FAILED when this request cannot be served, FleetError when the engine is dead.
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
        for pool in self._pools.values():
            if pool.llm.errored:
                raise pool.death()

    def context_tokens(self, model: str = "") -> int:
        """Return how many tokens, prompt and completion together, a request of this pool may have."""
        return self._pool(model).context_tokens

    def running(self) -> int:
        """Return how many requests the engines hold, waiting ones included."""
        return sum(int(pool.llm.get_num_unfinished_requests()) for pool in self._pools.values())

    def _pool(self, name: str) -> _Pool:
        if not name:
            return next(iter(self._pools.values()))
        if name not in self._pools:
            raise _Refused(f"there is no model pool {name!r}; there are: {', '.join(self._pools)}")
        return self._pools[name]

    async def _generate(self, request: Request, flight: _Flight) -> Trace:
        started = time.perf_counter()
        try:
            pool = self._pool(request.model)
            job = pool.job(request)
            if flight.aborted:
                return _trace(request, finish=Finish.CANCELLED, suffix_ids=job.suffix_ids)
            flight.id = f"{request.problem_id}/{request.ordinal}/{next(self._numbers)}"
            flight.pool = pool
            return await self._follow(request, flight, job, started)
        except _Refused as refusal:
            return _trace(request, finish=Finish.FAILED, error=str(refusal))

    async def _follow(self, request: Request, flight: _Flight, job: _Job, started: float) -> Trace:
        pool = flight.pool
        assert pool is not None
        try:
            queue = await pool.submit(flight.id, job)
            watch = _watch(pool.llm, queue, request)
            if flight.aborted:  # before vLLM knew it, so nothing was aborted there
                self._abort_soon(flight)
            output = await queue.get()
        except asyncio.CancelledError:
            self._abort_soon(flight)
            raise
        except Exception as error:
            if isinstance(error, _Refused) or not pool.llm.errored:
                raise
            raise pool.death() from error
        if watch is not None and watch.fired and not output.finished:
            self._abort_soon(flight)
        return _completed(request, job, output, watch, pool.n_layers, time.perf_counter() - started)

    def _abort_soon(self, flight: _Flight) -> None:
        # A task of its own: the caller may be cancelled again, and vLLM's abort sends a message. The set keeps it from being collected.
        assert flight.pool is not None
        task = asyncio.get_running_loop().create_task(flight.pool.abort(flight.id))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)


class _Refused(Exception):
    """This request cannot be served; the text is for the user."""


class _Flight:
    """A request on its way. Held by its coroutine alone, so that nothing stays when that is done or dropped."""

    __slots__ = ("__weakref__", "aborted", "id", "pool")

    def __init__(self) -> None:
        self.aborted = False
        self.id = ""
        self.pool: _Pool | None = None  # set when it is handed to vLLM


@dataclass(frozen=True, slots=True)
class _Job:
    prompt_ids: list[int]
    suffix_ids: tuple[int, ...]
    params: Any


class _Pool:
    """One started AsyncLLM with its tokenizer's rendering, cached."""

    def __init__(self, name: str, llm: Any) -> None:
        self.name = name
        self.llm = llm
        self.context_tokens: int = llm.model_config.max_model_len
        self.n_layers: int = llm.model_config.get_total_num_hidden_layers()
        self._tokenizer = llm.get_tokenizer()
        self._prompt_ids = functools.lru_cache(_RENDERED_PROMPTS)(self._render)
        self._suffix_ids = functools.lru_cache(_RENDERED_PROMPTS)(self._encode_suffix)
        self._params = functools.lru_cache(_RENDERED_PROMPTS)(_sampling_params)

    def job(self, request: Request) -> _Job:
        """Return what vLLM is to be given; _Refused when it cannot serve the request."""
        if request.depth is not None:
            raise _Refused(
                f"latent depth {request.depth} was asked for; this engine runs models at the depth they ship with"
            )
        suffix_ids = self._suffix_ids(request.suffix) if request.suffix else ()
        prompt_ids = [*self._prompt_ids(request.prompt), *request.prefix_ids, *suffix_ids]
        sampling = request.sampling or Sampling()
        wanted = sampling.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        n_new = fitting_tokens(len(prompt_ids), wanted, self.context_tokens, self.name)
        try:
            n_logprobs = logprobs_needed(request.metrics, request.rules)
            template = self._params(sampling, request.stop or sampling.stop, n_logprobs, bool(request.rules))
        except (PlanError, ValueError, *_client_errors()) as error:
            raise _Refused(str(error)) from error
        params = copy.copy(template)
        params.seed = request.seed
        params.max_tokens = n_new
        return _Job(prompt_ids, suffix_ids, params)

    async def submit(self, request_id: str, job: _Job) -> Any:
        """Hand the job to vLLM and return the queue of its outputs; _Refused when vLLM's validation does."""
        try:
            # Rendered input takes vLLM's straight path; a raw prompt would cross a thread pool.
            return await self.llm.add_request(
                request_id, {"type": "token", "prompt_token_ids": job.prompt_ids}, job.params
            )
        except (ValueError, TypeError, *_client_errors()) as error:
            raise _Refused(f"vLLM refused the request: {error}") from error

    async def abort(self, request_id: str) -> None:
        """Stop a request in the engine; harmless when it has ended or the engine is dead."""
        if not self.llm.errored:
            await self.llm.abort(request_id)

    def death(self) -> FleetError:
        """Return the error that says that this pool's engine is dead."""
        return FleetError(
            f"the vLLM engine of model pool {self.name!r} died; its last words are in the log above, "
            "and LEADLINE_VLLM_LOG=INFO shows more of them. A process killed for memory leaves none: lower kv_cache_gib."
        )

    def _render(self, prompt: Prompt) -> tuple[int, ...]:
        messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        if getattr(self._tokenizer, "chat_template", None):
            chat = [{"role": m.role, "content": m.content} for m in messages]
            text = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        raise _Refused(
            f"the model of pool {self.name!r} has no chat template, so it takes plain prompts, not messages: "
            "put the instruction in sampling.template instead of sampling.system, or choose an instruction-tuned model"
        )

    def _encode_suffix(self, suffix: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(suffix, add_special_tokens=False))


def fitting_tokens(n_prompt: int, wanted: int, context_tokens: int, pool: str) -> int:
    """Return how many new tokens fit, at most `wanted`; refuses a prompt that leaves no room for one."""
    if n_prompt >= context_tokens:
        raise _Refused(
            f"the prompt has {n_prompt} tokens and the context of model pool {pool!r} holds {context_tokens}, prompt and "
            "answer together: shorten the prompt, raise max_context_tokens if the model allows it, or choose another model"
        )
    return min(wanted, context_tokens - n_prompt)


def confidence(ranked_logprobs: Sequence[float], top_k: int) -> float:
    """Return a token's confidence in nats: minus the mean of the `top_k` largest log-probabilities (DeepConf, section 3.1)."""
    return -math.fsum(ranked_logprobs[:top_k]) / top_k


def _identity(request: Request) -> tuple[object, ...]:
    # Jobs with plans of their own may share an engine, so problem and ordinal alone are not enough.
    return (request.problem_id, request.ordinal, request.seed, request.model, request.depth)


def _sampling_params(sampling: Sampling, stop: tuple[str, ...], n_logprobs: int | None, streamed: bool) -> Any:
    """Return vLLM's parameters without seed and length: one object per setting, copied for each request."""
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
        # Nothing is made per token unless a rule has to look at it.
        output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # a deep copy per request costs as much as all the rest here
    )


@functools.cache
def _client_errors() -> tuple[type[Exception], ...]:
    from vllm.exceptions import VLLMClientError

    return (VLLMClientError,)


def _trace(request: Request, finish: Finish, error: str = "", suffix_ids: tuple[int, ...] = (), **fields: Any) -> Trace:
    return Trace(
        ordinal=request.ordinal,
        parent=request.parent,
        purpose=request.purpose,
        model=request.model,
        depth=request.depth,
        finish=finish,
        suffix_ids=suffix_ids,
        error=error,
        **fields,
    )


def _completed(request: Request, job: _Job, output: Any, watch: _Watch | None, n_layers: int, seconds: float) -> Trace:
    last = output.outputs[0]
    if watch is not None and watch.text is not None:
        text, ids = watch.text, watch.ids
    else:
        text, ids = last.text, tuple(last.token_ids)
    if watch is not None and watch.fired:
        finish = Finish.RULE
    else:
        finish = _FINISHES.get(last.finish_reason, Finish.FAILED)
    cached = output.num_cached_tokens or 0
    n_prompt = len(job.prompt_ids)
    usage = Usage(
        prompt_tokens=n_prompt,
        cached_tokens=cached,
        output_tokens=len(ids),
        layer_tokens=(n_prompt - cached + len(ids)) * n_layers,
        seconds=seconds,
    )
    return _trace(
        request,
        finish=finish,
        error="" if finish is not Finish.FAILED else f"vLLM ended the request with {last.finish_reason!r}",
        suffix_ids=job.suffix_ids,
        text=text,
        token_ids=ids,
        usage=usage,
        metrics=watch.metrics(request.metrics, output, len(ids)) if watch is not None else {},
    )


def _watch(llm: Any, queue: Any, request: Request) -> _Watch | None:
    """Return what follows the request's tokens, put in its place in vLLM's output processor; None when nothing needs following."""
    if not request.metrics and not request.rules:
        return None
    return _Watch(request, queue, llm.output_processor.request_states.get(queue.request_id))


class _Watch:
    """Follows one request where vLLM detokenises it: log-probabilities become two numbers per token, stop rules fire at their token.

    vLLM calls `put` once per step. It stands where the request's queue stood and passes on only the last output, or the one at which
    a rule fired. A rule wins over the length limit and loses to the end of the sequence. `state` is None when vLLM was done before.
    """

    def __init__(self, request: Request, queue: Any, state: Any) -> None:
        self.fired = False
        self.text: str | None = None  # None: nothing was followed, the output has it
        self.ids: tuple[int, ...] = ()
        self._queue = queue
        self._state = state
        self._series: Any = None
        self._folds = [(RuleFold(rules), top_k) for top_k, rules in _by_top_k(request.rules)]
        self._top_ks = {TOP_K, *(top_k for _, top_k in self._folds if top_k)}
        self._seen_chars = self._seen_tokens = 0
        if state is None:
            return
        if logprobs_needed(request.metrics, request.rules) is not None:
            self._series = _series(self._top_ks, state.logprobs_processor.logprobs)
            state.logprobs_processor.logprobs = self._series
            state.logprobs_processor.tokenizer = None  # else every alternative of every token is decoded to text
        if request.rules:
            state.queue = self
            queue.get_nowait()  # what came before us is in the state, too

    def put(self, output: Any) -> None:
        """Take what vLLM has for the consumer: an output with what one step added, or the exception that ended the engine."""
        if self.fired:
            return  # a step that ran before the abort arrived
        if isinstance(output, Exception):
            self._queue.put(output)
            return
        detokenizer = self._state.detokenizer
        if not output.finished or output.outputs[0].finish_reason == "length":
            self.fired = self._fires(detokenizer.output_text, detokenizer.num_output_tokens())
        if self.fired or output.finished:
            self.text, self.ids = detokenizer.output_text, tuple(detokenizer.output_token_ids)
            self._queue.put(output)

    def metrics(self, names: Sequence[str], output: Any, n_tokens: int) -> dict[str, float]:
        """Return the metrics over the first `n_tokens` tokens."""
        if not names:
            return {}
        series = self._series or _series(self._top_ks, output.outputs[0].logprobs)
        return metric_values(names, series.sampled[:n_tokens], series.confidences[TOP_K][:n_tokens])

    def _fires(self, text: str, n_tokens: int) -> bool:
        new_text, self._seen_chars = text[self._seen_chars :], len(text)
        new_tokens, self._seen_tokens = slice(self._seen_tokens, n_tokens), n_tokens
        fired = [
            fold.update(new_text, self._series.confidences[top_k][new_tokens] if top_k else ())
            for fold, top_k in self._folds
        ]
        return any(fired)


def _by_top_k(rules: Sequence[StopRule]) -> Iterator[tuple[int, list[StopRule]]]:
    """Yield rules that read the same confidences, with their `top_k`; 0 for those that read text."""
    top_ks = [rule.top_k if isinstance(rule, ConfidenceFloor) else 0 for rule in rules]
    for top_k in sorted(set(top_ks)):
        yield top_k, [rule for rule, k in zip(rules, top_ks, strict=True) if k == top_k]


def _series(top_ks: Collection[int], begun: Any) -> Any:
    """Return a container that vLLM fills in place of its own, with what its own, `begun`, already has."""
    series = _series_class()(top_ks)
    for start, end in zip(begun.start_indices, begun.end_indices, strict=True):
        series.append_fast(begun.token_ids[start:end], begun.logprobs[start:end], (), ())
    return series


@functools.cache
def _series_class() -> type:
    from vllm.logprobs import FlatLogprobs

    class Series(FlatLogprobs):  # type: ignore[misc]  # vllm counts as Any
        """Keeps two floats per token where vLLM keeps 21 of each of four kinds: `sampled` and, by top_k, `confidences`."""

        def __init__(self, top_ks: Collection[int]) -> None:
            super().__init__()
            self.sampled: list[float] = []
            self.confidences: dict[int, list[float]] = {top_k: [] for top_k in top_ks}

        def append_fast(self, token_ids: Any, logprobs: list[float], ranks: Any, decoded_tokens: Any) -> None:
            # The sampled token comes first, also when it is among the likeliest, which follow by rank.
            self.sampled.append(logprobs[0])
            ranked = logprobs[1:]
            for top_k, values in self.confidences.items():
                if len(ranked) >= top_k:
                    values.append(confidence(ranked, top_k))

    return Series


@asynccontextmanager
async def _opened(options: Vllm, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
    engines: dict[str, Any] = {}
    try:
        for name, model in models.items():
            engines[name] = await _started(options, name, model, len(models) - len(engines))
        yield VllmEngine(engines)
    finally:
        for name, llm in engines.items():
            # vLLM's own shutdown leaves the consumers of pending requests waiting for ever.
            llm.output_processor.propagate_error(FleetError(f"the vLLM engine of model pool {name!r} was shut down"))
            await asyncio.to_thread(llm.shutdown)


async def _started(options: Vllm, name: str, model: Model, n_pools_left: int) -> Any:
    starting = asyncio.create_task(asyncio.to_thread(_start, options, name, model, n_pools_left))
    try:
        llm = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: wait for what it starts, or its processes would stay behind.
        await asyncio.wait([starting])
        if starting.exception() is None:
            starting.result().shutdown()
        raise
    await (
        llm.get_supported_tasks()
    )  # cached by vLLM; asked here, a dead engine cannot make a request wait for the answer
    return llm


def _start(options: Vllm, name: str, model: Model, n_pools_left: int) -> Any:
    """Return a started AsyncLLM. Blocks for a minute or more. PlanError, FleetError."""
    path = resolve_model(model.path)
    with _environment(options):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        on_cpu = current_platform.is_cpu()
        arguments = engine_arguments(options, model, path, on_cpu, _free_bytes() // n_pools_left if on_cpu else 0)
        try:
            config = AsyncEngineArgs(**arguments).create_engine_config()
        except (ValueError, OSError) as error:
            raise PlanError(f"model {model.path!r} of pool {name!r} cannot be used: {error}") from error
        shipped = config.model_config.max_model_len
        try:
            llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # whatever an engine process says on its way down
            raise FleetError(
                f"the vLLM engine of model pool {name!r} ({model.path}) did not start: {error}; "
                "the reason is in the log above (LEADLINE_VLLM_LOG=INFO shows more)"
            ) from error
    fitted = llm.model_config.max_model_len
    if fitted < shipped:
        llm.shutdown()
        raise FleetError(
            f"the KV cache of model pool {name!r} holds {fitted} tokens, fewer than the context of {shipped} that the model "
            f"ships with: set max_context_tokens = {fitted} or less for the pool, or give more memory (kv_cache_gib, "
            "gpu_memory_utilization)"
        )
    return llm


def engine_arguments(options: Vllm, model: Model, path: str, on_cpu: bool, free_bytes: int) -> dict[str, Any]:
    """Return the arguments of vLLM's engine for one pool. PlanError when `kv_cache_gib` asks for more than `free_bytes` on a CPU."""
    arguments: dict[str, Any] = {
        "model": path,
        "revision": model.revision or None,
        "dtype": cpu_dtype(_cpu_flags()) if on_cpu and options.dtype == "auto" else options.dtype,
        # -1 lets vLLM fit the context to the memory, which `_start` then refuses with the number to set
        "max_model_len": model.max_context_tokens or -1,
        "kv_cache_memory_bytes": kv_cache_bytes(options.kv_cache_gib, on_cpu, free_bytes),
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": options.enforce_eager,
        "enable_prefix_caching": options.prefix_caching,
        "seed": options.seed,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    if options.max_num_seqs:
        arguments["max_num_seqs"] = options.max_num_seqs
    return arguments


def kv_cache_bytes(gib: float, on_cpu: bool, free_bytes: int) -> int | None:
    """Return the size of the KV cache; None leaves it to vLLM (on a GPU)."""
    if gib:
        if on_cpu and gib * _GIB > free_bytes:
            raise PlanError(
                f"kv_cache_gib = {gib:g}: this machine has {free_bytes / _GIB:.1f} GiB free; set less, or 0 to have it chosen"
            )
        return int(gib * _GIB)
    return min(4 * _GIB, free_bytes // 4) if on_cpu else None


def cpu_dtype(flags: Collection[str]) -> str:
    """Return the faster of float32 and bfloat16 on a CPU with these features (names as in /proc/cpuinfo)."""
    return "bfloat16" if {"amx_bf16", "avx512_bf16", "bf16"} & set(flags) else "float32"


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(flag for key, _, value in named if key.strip() in ("flags", "Features") for flag in value.split())


def _free_bytes() -> int:
    import psutil  # comes with vllm

    return int(psutil.virtual_memory().available)


@contextmanager
def _environment(options: Vllm) -> Iterator[None]:
    """Set what vLLM reads from the environment while an engine starts; afterwards everything is as before, vLLM's own changes included."""
    before = dict(os.environ)
    for key, value in {
        "VLLM_LOGGING_LEVEL": os.environ.get("LEADLINE_VLLM_LOG", "WARNING"),
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM's default binds the workers of all engines on a machine to the same cores, and leaves one of two idle.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(options.threads or len(os.sched_getaffinity(0))),
    }.items():
        os.environ.setdefault(key, value)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
