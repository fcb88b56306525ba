"""The `vllm` engine's options, and the start of one engine per model pool from them.

The one rule: vllm and torch are imported when an engine is opened, never with this module, so that
a light installation can list and check the options. `host` decides an engine's resources on this
machine, `depth` adds layer schedules. Not covered: several replicas of a pool, and restarting a
dead engine, which the `ray` engine does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Model
from orchestrator.core.protocols import EngineNode
from orchestrator.core.values import Capability, Sampling
from orchestrator.engines.vllm import depth as vllm_depth
from orchestrator.engines.vllm import sampling
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.pooling import require_task
from orchestrator.engines.vllm.start import drafts, host, media, tools
from orchestrator.engines.vllm.start.adapters import adapter_arguments, adapter_requests
from orchestrator.engines.vllm.start.arguments import parsed, require_possible
from orchestrator.engines.vllm.start.parsers import (
    NO_PARSER,
    reply_parser,
    require_limit,
    require_parser,
)
from orchestrator.engines.vllm.start.part import VllmWorkers, part_arguments
from orchestrator.engines.vllm.start.started import StartedEngine
from orchestrator.plan.check import shared_engines
from orchestrator.plan.looped import Latent
from orchestrator.plan.models import resolve_model


@dataclass(frozen=True, slots=True)
class Vllm:
    """Runs models with vLLM in this process, on GPUs or the CPU of one machine.

    A script that opens an engine in its own process needs `if __name__ == "__main__":`, because
    vLLM spawns processes.
    """

    dtype: Annotated[
        str,
        Meta(
            description='Number format of weights and activations, such as "bfloat16"; "auto" '
            "takes the model's own on a GPU, and the faster of float32 and bfloat16 on a CPU."
        ),
    ] = "auto"
    kv_cache_gib: Annotated[
        float,
        Meta(
            ge=0,
            description="Size of each pool's KV cache in GiB; 0 takes what "
            "gpu_memory_utilization leaves, or on a CPU a quarter of the free memory, at most 4.",
        ),
    ] = 0.0
    gpu_memory_utilization: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of a GPU's memory for all pools together; each gets an equal part "
            "of it, unless `pools` sets its own.",
        ),
    ] = 0.9
    tensor_parallel: Annotated[
        int, Meta(ge=1, description="Number of GPUs over which each model is split.")
    ] = 1
    max_num_seqs: Annotated[
        int,
        Meta(
            ge=0,
            description="Most requests that a pool computes in one step; 0 leaves it to vLLM.",
        ),
    ] = 0
    enforce_eager: Annotated[
        bool | None,
        Meta(
            description="Whether the model runs without compiled graphs; unset, it is compiled on "
            "a GPU and eager on a CPU, where compiling takes longer than most jobs."
        ),
    ] = None
    draft_depth: Annotated[
        int,
        Meta(
            ge=0,
            description="Depth at which a looped model drafts tokens for its deeper requests, "
            "which verify several in one pass; 0 drafts none. Drafts change no token.",
        ),
    ] = 0
    draft_layers: Annotated[
        str,
        Meta(
            description="Layers with which a model that does not loop drafts tokens, such as "
            '"0-4 25-29"; all of its layers verify several in one pass. Empty: none. Drafts change '
            "no token."
        ),
    ] = ""
    draft_tokens: Annotated[
        int, Meta(ge=1, le=16, description="Most tokens that a request drafts at once.")
    ] = 4
    draft_step_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens at which a pass takes twice as long as over a few: the more "
            "requests run, the fewer tokens each of them drafts, down to none. 0 takes 12 on a CPU "
            "and 256 on a GPU.",
        ),
    ] = 0
    threads: Annotated[
        int,
        Meta(
            ge=0,
            description="OpenMP threads of an engine on a CPU; 0 takes one fewer than the CPUs "
            "this process may use.",
        ),
    ] = 0
    prefix_caching: Annotated[
        bool,
        Meta(description="Whether requests with a common prefix share its part of the KV cache."),
    ] = True
    seed: Annotated[
        int,
        Meta(description="Seed of the engine; a request's own seed decides which tokens it draws."),
    ] = 0
    args: Annotated[
        Mapping[str, object],
        Meta(
            description="Any other argument of vLLM's engine, by the name that `vllm serve` has "
            'for it: { quantization = "fp8" }.'
        ),
    ] = field(default_factory=dict)
    pools: Annotated[
        Mapping[str, Mapping[str, object]],
        Meta(description="Other values of these options for single model pools, by pool name."),
    ] = field(default_factory=dict)
    processed_logprobs: Annotated[
        bool,
        Meta(
            description="Whether log-probabilities are those that tokens are drawn from, after "
            "temperature, top_k and the like; otherwise they are the model's own."
        ),
    ] = False

    def __post_init__(self) -> None:
        host.by_pool(self, self.pools)  # checks the options of single pools

    def capabilities(self) -> frozenset[Capability]:
        """Return the engine's capabilities: all of them."""
        return frozenset(Capability)

    def require_sampling(self, extra: Mapping[str, object]) -> None:
        """Raise PlanFault if vLLM does not take these sampling parameters."""
        _import_vllm()
        sampling.parsed(extra)

    def require_tools(self, extra: Mapping[str, object], models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless these models can be shown tools and vLLM can read their calls."""
        for name, model in models.items():
            tools.require_tools(extra, name, model, _import_vllm)

    def require_media(self, kinds: frozenset[str], models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless these models take media of these kinds."""
        for name, options in host.by_pool(self, models).items():
            media.require_media(kinds, name, models[name], options.args, _import_vllm)

    def require_thinking(self, n_tokens: int, models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless vLLM can end the thinking of these pools after so many tokens."""
        for name, options in host.by_pool(self, models).items():
            if not models[name].task and "reasoning_config" not in options.args:
                require_limit(n_tokens, name, models[name], _import_vllm)

    def require_drafts(
        self, sampling: Sampling, models: Mapping[str, Model], sampled: Collection[str]
    ) -> None:
        """Raise PlanFault unless these pools can draft, and `sampled` with this sampling."""
        drafts.require_drafts(host.by_pool(self, models), models, sampling, sampled)

    def on_node(self, node: EngineNode) -> VllmPart:
        """Return the factory of the part on one of several nodes."""
        return VllmPart(self, node)

    def require_noise(self, noise: float, models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless these pools loop, as far as their models are on this machine."""
        for name, model in models.items():
            vllm_depth.require_noise(noise, name, model)

    @asynccontextmanager
    async def open(
        self, models: Mapping[str, Model], node: EngineNode | None = None
    ) -> AsyncIterator[VllmEngine]:
        """Yield one engine for all pools, started one after another, and shut them down afterwards.

        With `node`, which is the first of several, their GPUs are used as well. PlanError if a
        model cannot be used, EngineError if an engine does not start.
        """
        engines = shared_engines(models, host.by_pool(self, models))
        options = host.by_pool(self, models, len(engines))
        started: dict[str, StartedEngine] = {}
        try:
            for n_started, pools in enumerate(engines):
                name = next(iter(pools))
                engine = await _start(options[name], pools, len(engines) - n_started, node)
                started |= dict.fromkeys(pools, engine)
            started = {name: started[name] for name in models}
        except BaseException:  # also on cancellation: started engines must not be left running
            await VllmEngine(started).close()
            raise
        opened = VllmEngine(started)
        started.clear()
        try:
            yield opened
        finally:
            await opened.close()


@dataclass(frozen=True, slots=True)
class VllmPart:
    """Opens the part on one of the nodes over which an engine for one model is spread."""

    options: Vllm
    node: EngineNode

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine | VllmWorkers]:
        """Yield the engine on the first node, and its workers on the others."""
        if not self.node.rank:
            async with self.options.open(models, self.node) as engine:
                yield engine
            return
        name = next(iter(models))
        path = await asyncio.to_thread(resolve_model, models[name].path)
        await asyncio.to_thread(_import_vllm)
        options = host.by_pool(self.options, models, 1)[name]
        workers = await asyncio.to_thread(_workers, options, models, path, self.node)
        try:
            yield workers
        finally:
            workers.close()


async def _start(
    options: Vllm, pools: Mapping[str, Model], n_engines_left: int, node: EngineNode | None
) -> StartedEngine:
    """Return the started engine of one model, with the adapters that make pools of it."""
    name, model = next(iter(pools.items()))
    # before vLLM is imported, which is slow
    path = await asyncio.to_thread(resolve_model, model.path)
    # In a separate function: vLLM keeps the frames in which it was imported forever, and with them
    # all their objects.
    await asyncio.to_thread(_import_vllm)
    starting = asyncio.create_task(
        asyncio.to_thread(_start_blocking, options, pools, path, n_engines_left, node)
    )
    try:
        started = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: wait for the engine it starts, or its processes would be
        # left running.
        await asyncio.wait([starting])
        if starting.exception() is None:
            starting.result().llm.shutdown()
        raise
    # vLLM caches the answer: no request will wait for a reply from a dead engine
    tasks = await started.llm.get_supported_tasks()
    with host.or_ended(started.llm):
        require_task(name, model, tasks)
        for pool, adapter in started.adapters.items():
            try:
                await started.llm.add_lora(adapter)
            except Exception as error:  # vLLM raises what its process did, of any type
                raise PlanError(
                    f"models.{pool}.lora = {pools[pool].lora!r} cannot be applied to "
                    f"{model.path!r}: {error}"
                ) from error
    return started


def _import_vllm() -> None:
    with host.environment(threads=0):
        try:
            import vllm.v1.engine.async_llm  # noqa: F401
        except ModuleNotFoundError as error:
            raise PlanError(
                f"vLLM is not installed ({error}): pip install 'leadline[cpu]' or, with a GPU, "
                "'leadline[cuda]'"
            ) from error


def _config(
    options: Vllm,
    pools: Mapping[str, Model],
    path: str,
    n_engines_left: int,
    node: EngineNode | None,
) -> tuple[Any, Latent | None, dict[str, Any]]:
    """Return vLLM's configuration of one engine, its layer schedule and its adapters."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    name, model = next(iter(pools.items()))
    arguments, latent = engine_arguments(options, name, model, path, n_engines_left)
    adapters = adapter_requests(pools)
    if latent is not None and adapters:
        raise PlanError(
            f"models.{next(iter(adapters))}.lora: {model.path!r} loops or drafts in a class of "
            "ours, and adapters are applied in vLLM's own"
        )
    on_cpu = current_platform.is_cpu()
    arguments = adapter_arguments(adapters, arguments, on_cpu=on_cpu) | arguments
    arguments |= part_arguments(node)
    is_first = node is None or not node.rank
    try:
        config = AsyncEngineArgs(**arguments).create_engine_config(headless=not is_first)
    except (ValueError, OSError) as error:
        raise PlanError(f"model {model.path!r} of pool {name!r} cannot be used: {error}") from error
    return host.without_worker_process(config), latent, adapters


def _workers(options: Vllm, pools: Mapping[str, Model], path: str, node: EngineNode) -> VllmWorkers:
    """Return the started workers of a node that is not the first; blocks. EngineError."""
    with host.environment(options.threads):
        config, _, _ = _config(options, pools, path, 1, node)
        try:
            return VllmWorkers(config)
        except Exception as error:  # any error that its processes raise as they exit
            raise EngineError(f"vLLM's workers on {node.address} did not start: {error}") from error


def _start_blocking(
    options: Vllm,
    pools: Mapping[str, Model],
    path: str,
    n_engines_left: int,
    node: EngineNode | None,
) -> StartedEngine:
    """Return a started engine; blocks for about a minute. PlanError, EngineError."""
    name, model = next(iter(pools.items()))
    with host.environment(options.threads):
        from vllm.v1.engine.async_llm import AsyncLLM

        config, latent, adapters = _config(options, pools, path, n_engines_left, node)
        is_pooling = bool(model.task)
        parser = None if is_pooling else reply_parser(name, model, config.model_config)
        calls = None if is_pooling else tools.tool_parser(name, model, config.model_config)
        context_tokens = config.model_config.max_model_len
        try:
            llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # any error that its processes raise as they exit
            raise EngineError(
                f"the vLLM engine of model pool {name!r} ({model.path}) did not start: {error} "
                "The reason is in the log above (LEADLINE_VLLM_LOG=INFO shows more)"
            ) from error
    with host.or_ended(llm):
        host.require_context(name, llm.model_config.max_model_len, context_tokens)
    return StartedEngine(llm, latent, model.task, parser, model.chat_template, adapters, calls)


def engine_arguments(
    options: Vllm, name: str, model: Model, path: str, n_pools_left: int
) -> tuple[dict[str, Any], Latent | None]:
    """Return all arguments of a pool's engine, and the layer schedule that they are for.

    PlanError if the options do not fit the model, this machine, vLLM or each other.
    """
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    given = parsed(options.args, name)
    arguments = host.engine_arguments(options, model, path)
    if on_cpu:
        arguments |= host.cpu_arguments(options, host.free_bytes() // n_pools_left)
    if model.task:
        latent = None
        drafts.require_no_task(options, name, model)
    else:
        latent = vllm_depth.prepare(options, name, model, path, arguments, on_cpu=on_cpu)
    require_possible(given, name, on_cpu=on_cpu, looped=latent is not None)
    if model.reasoning_parser and model.reasoning_parser != NO_PARSER:
        require_parser(name, model.reasoning_parser)
        # for structured outputs after the thinking, and for budgets of thinking
        arguments["reasoning_parser"] = model.reasoning_parser
    return arguments | given, latent
