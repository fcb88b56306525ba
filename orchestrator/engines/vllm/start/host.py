"""Resources of this machine for a vLLM engine: memory, number format, environment.

The one rule: it decides, but starts nothing and does not import vllm.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.start.guard import OPENER
from orchestrator.plan import registry

if TYPE_CHECKING:
    from orchestrator.engines.vllm.options import Vllm

GIB = 1 << 30
_DEFAULT_KV_BYTES = 4 * GIB  # SmolLM2-135M in float32: 90,000 tokens
LOG_LEVEL = "LEADLINE_VLLM_LOG"


def cpu_kv_bytes(gib: float, free_bytes: int) -> int:
    """Return a KV cache's size on a CPU: `gib`, or for 0 a quarter of free memory up to 4 GiB.

    PlanError if `gib` is more than the free memory.
    """
    if gib * GIB > free_bytes:
        raise PlanError(
            f"kv_cache_gib = {gib:g}, but {free_bytes / GIB:.1f} GiB are free here: set less, or 0 "
            "to have it chosen"
        )
    return int(gib * GIB) if gib else min(_DEFAULT_KV_BYTES, free_bytes // 4)


def cpu_dtype(features: Collection[str]) -> str:
    """Return the faster of float32 and bfloat16 on a CPU with these features of /proc/cpuinfo.

    Measured with SmolLM2-135M: float32 71 tokens/s and bfloat16 17 with AVX2 alone (32 in flight,
    two cores); 119 and 94 with AVX512_BF16 but no AMX (64 in flight, one thread). AMX multiplies
    bfloat16 in tiles; it is reported to be faster there, but we have not measured it.
    """
    return "bfloat16" if "amx_bf16" in features else "float32"


def cpu_features() -> frozenset[str]:
    """Return the features of this machine's CPU; none if /proc does not report them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return frozenset()
    fields = (line.partition(":") for line in lines)
    return frozenset(
        word
        for name, _, value in fields
        if name.strip() in ("flags", "Features")
        for word in value.split()
    )


def free_bytes() -> int:
    """Return the memory still available to this process within its cgroup's limit."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(meminfo["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (group / "memory.max").read_text().strip(),
            (group / "memory.current").read_text().strip(),
        )
    except OSError:  # no limit of this kind
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def engine_arguments(options: Vllm, model: Model, path: str) -> dict[str, Any]:
    """Return the arguments of vLLM's engine for one pool, on any device."""
    arguments: dict[str, Any] = {
        "model": path,
        "revision": model.revision or None,
        "dtype": options.dtype,
        # -1: as much of the model's context as fits in memory (`require_context`)
        "max_model_len": model.max_context_tokens or -1,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": bool(options.enforce_eager),
        "enable_prefix_caching": options.prefix_caching,
        "seed": options.seed,
        "logprobs_mode": "processed_logprobs" if options.processed_logprobs else "raw_logprobs",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    if options.kv_cache_gib:
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gib * GIB)
    if model.task:
        # not every pooling model can have a prefix cache
        arguments |= {"runner": "pooling", "enable_prefix_caching": None}
    # otherwise Qwen2.5-Math-PRM returns values only at the positions of its own step tag
    if model.task == "token_classify":
        arguments["pooler_config"] = {"tok_pooling_type": "ALL"}
    if options.max_num_seqs:
        arguments["max_num_seqs"] = options.max_num_seqs
    return arguments


def cpu_arguments(options: Vllm, free_bytes: int) -> dict[str, Any]:
    """Return the arguments that differ on a CPU.

    PlanError if `kv_cache_gib` is more than `free_bytes`. Eager unless the option says otherwise:
    compiling SmolLM2-135M took 95 s more at every start (vLLM 0.32 does not reuse its stored
    artifacts) and gave 134 tokens/s instead of 119 (64 in flight, one thread), which pays off after
    a quarter of an hour.
    """
    return {
        "enforce_eager": options.enforce_eager is not False,
        "dtype": cpu_dtype(cpu_features()) if options.dtype == "auto" else options.dtype,
        "kv_cache_memory_bytes": cpu_kv_bytes(options.kv_cache_gib, free_bytes),
        # Only whole blocks are reused. vLLM's default on a CPU is 128 (platforms/cpu.py), with
        # which a continuation at a checkpoint of 64 tokens misses half its prefix; 32 is the
        # minimum of its attention kernel (attention/backends/cpu_attn.py).
        "block_size": 32,
        # Every request here has a seed, and after each chunk of a seeded prompt vLLM 0.32 rewinds
        # its generator, which torch's CPU generators cannot: the engine dies with "CPU Generator
        # does not use offset" (gpu_model_runner.py:3502).
        "enable_chunked_prefill": False,
    }


def require_context(pool: str, fitted_tokens: int, context_tokens: int) -> None:
    """Raise EngineError if the model's context does not fit in a pool's KV cache."""
    if fitted_tokens < context_tokens:
        raise EngineError(
            f"the KV cache of model pool {pool!r} holds {fitted_tokens} tokens, and the model's "
            f"context is {context_tokens}: set max_context_tokens = {fitted_tokens} or less for "
            "the pool, or give more memory (kv_cache_gib, gpu_memory_utilization)"
        )


def death(pool: str) -> EngineError:
    """Return the error for a pool with a dead engine."""
    return EngineError(
        f"the vLLM engine of model pool {pool!r} died; the reason is in the log above "
        "(LEADLINE_VLLM_LOG=INFO shows more). A process that was killed for its memory leaves "
        "none: then set a lower kv_cache_gib or max_num_seqs"
    )


@contextmanager
def or_ended(llm: Any) -> Iterator[None]:
    """End a started engine if the block raises."""
    try:
        yield
    except BaseException:  # also on cancellation: its processes must not be left running
        llm.shutdown()
        raise


def by_pool(options: Vllm, pools: Collection[str], n_engines: int = 0) -> dict[str, Vllm]:
    """Return the options with which each pool's engine starts, one of `n_engines` (0: one a pool).

    PlanError if `options.pools` names a pool that is not a model of the plan.
    """
    for name in options.pools:
        if name not in pools:
            raise PlanError(
                f"pools names {name!r}{registry.near(name, pools)}, which is no model of the plan; "
                f"those are: {', '.join(pools)}"
            )
    shared = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "pools"}
    # vLLM reserves each engine's share of the memory
    n_engines = n_engines or max(1, len(pools))
    shared["gpu_memory_utilization"] = options.gpu_memory_utilization / n_engines
    cls = type(options)
    return {
        name: registry.build(
            cls, {**shared, **options.pools.get(name, {})}, f"engine 'vllm', pools.{name}"
        )
        for name in pools
    }


def without_worker_process(config: Any) -> Any:
    """Return `config`, changed so that a single worker on a CPU runs in the engine's process.

    Unchanged if OpenMP's threads are bound. vLLM 0.32 runs the worker in a separate process, to set
    OpenMP's variables for it (platforms/cpu.py:336); here they are set before the engine's process
    is created (`environment`). SmolLM2-135M on two shared cores: 18 s of CPU time to start instead
    of 26, and 87 tokens per second of CPU time instead of 74 (32 in flight); the same tokens.
    """
    single = config.parallel_config.world_size == 1 and config.device_config.device_type == "cpu"
    if single and os.environ.get("VLLM_CPU_OMP_THREADS_BIND") == "nobind":
        config.parallel_config.distributed_executor_backend = "uni"
    return config


@contextmanager
def environment(threads: int) -> Iterator[None]:
    """Set the variables that vLLM and its processes read while an engine starts.

    All variables are restored afterwards, including those that vLLM changed. `threads` 0 means all
    CPUs available to this process but one, which is left to vLLM's scheduler and to us. Variables
    set by the user are kept, except that `threads` overrides OMP_NUM_THREADS.
    """
    before = dict(os.environ)
    variables = {
        "VLLM_LOGGING_LEVEL": os.environ.get(LOG_LEVEL, "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM forks if it can, and this process has threads
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # vLLM's default binds the workers of every engine on the machine to the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads or max(1, len(os.sched_getaffinity(0)) - 1)),
        # Threads that spin at a barrier wait for a thread without a core: on a busy machine, two
        # threads took ten times as long as one.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if LOG_LEVEL not in os.environ:
        variables |= {
            "PYTHONWARNINGS": "ignore",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "TORCH_LOGS": "-all",
        }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    os.environ[OPENER] = str(os.getpid())
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
