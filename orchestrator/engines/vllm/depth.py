"""Layer schedules in a vLLM engine: the arguments at the start, and iteration counts.

`orchestrator.plan.looped` decides which depths a model can serve; this module checks them against
the engine's options and this machine. The one rule: it reads config.json and starts nothing. Not
covered: running the schedule (`latent`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.layers import parse_cascade, parse_exit
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.start.drafts import drafting, speculative_config
from orchestrator.plan.looped import LAST, Latent, latent_of, usual_names
from orchestrator.plan.models import known_config

if TYPE_CHECKING:
    from orchestrator.engines.vllm.options import Vllm

T = TypeVar("T")
# requests with counts that are never taken: failed ones, and those with a cancelled consumer
_MAX_UNTAKEN = 100_000
# vLLM's names of the backends whose builders are known (`latent.visits.KNOWN_BUILDERS`)
_SKIPPING = (
    *("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", "ROCM_ATTN", "ROCM_AITER_FA"),
    *("ROCM_SEGMENTED_ATTN", "ROCM_AITER_UNIFIED_ATTN"),
)
# the parts of a loop with which a token may stop after any iteration and continue later
_POSSIBLE = {"architecture", "schedule", "depth", "max_depth", "damped", "residual"}
SCHEDULER = "orchestrator.engines.vllm.latent.spans.scheduler.SpanScheduler"
# the largest block of our KV caches on a CPU (`orchestrator.engines.vllm.start.host`): caches are
# made of whole blocks
_BLOCK_TOKENS = 32
_ELEMENT_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


def prepare(
    options: Vllm,
    name: str,
    model: Model,
    path: str,
    arguments: dict[str, Any],
    *,
    on_cpu: bool,
) -> Latent | None:
    """Return the model's schedule, and add the necessary arguments to the engine's `arguments`.

    For a stock model it returns None and adds nothing. PlanError if the model or this engine cannot
    run as the plan says.
    """
    config = usual_names(_config(path, model.revision))
    latent = drafting(options, name, config, model, on_cpu=on_cpu)
    if latent is None:
        return None
    _require_possible(options, name, path, latent)
    if latent.warm_start and _second_runner("0" if on_cpu else "1"):
        raise PlanError(
            f"models.{name}: warm_start = {latent.warm_start:g} needs vLLM's V1 model runner: "
            "V2's forgets a request that is preempted, and its states with it. Set "
            "VLLM_USE_V2_MODEL_RUNNER=0, or drop warm_start"
        )
    context = model.max_context_tokens or int(config.get("max_position_embeddings", 0))
    cache_bytes = arguments.get("kv_cache_memory_bytes")
    element_bytes = _ELEMENT_BYTES.get(
        arguments["dtype"],
        _ELEMENT_BYTES.get(str(config.get("dtype", config.get("torch_dtype"))), 2),
    )
    if cache_bytes is not None:
        require_room(
            latent, config, context, element_bytes, cache_bytes * options.tensor_parallel, name
        )
    arguments |= {"enforce_eager": True, "hf_overrides": latent.overrides()}
    if latent.draft is not None:
        arguments["speculative_config"] = speculative_config(latent.draft)
    if has_spans(options, latent, on_cpu=on_cpu):
        arguments["scheduler_cls"] = SCHEDULER
    if latent.exit or latent.draft is not None:
        arguments["worker_extension_cls"] = "orchestrator.engines.vllm.latent.runner.DepthCounts"
    return latent


def require_room(
    latent: Latent,
    config: Mapping[str, Any],
    context_tokens: int,
    element_bytes: int,
    cache_bytes: int,
    name: str,
) -> None:
    """Raise PlanError when the KV cache is too small for one full-context request at max depth."""
    needed = kv_bytes(latent, config, context_tokens, element_bytes)
    if needed <= cache_bytes:
        return
    deep = f" at depth {latent.max_depth}" if latent.schedule.think else ""
    smaller = " or max_depth" if latent.max_depth > 1 else ""
    shared = ", or let iterations share it (kv_iterations)" if latent.max_depth > 1 else ""
    raise PlanError(
        f"models.{name}: one request of {context_tokens} tokens{deep} needs {needed / 2**30:.2f} "
        f"GiB of KV cache (that of {latent.n_visits} layers), and "
        f"{cache_bytes / 2**30:.2f} GiB are reserved: set a smaller max_context_tokens{smaller}, "
        f"or a larger kv_cache_gib{shared}"
    )


def kv_bytes(
    latent: Latent, config: Mapping[str, Any], context_tokens: int, element_bytes: int
) -> int:
    """Return the KV cache bytes of one request at the largest depth, over all its GPUs."""
    n_heads = int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or config["hidden_size"] // n_heads)
    n_kv_heads = int(config.get("num_key_value_heads") or n_heads)
    n_tokens = -(-context_tokens // _BLOCK_TOKENS) * _BLOCK_TOKENS
    return latent.n_visits * n_tokens * 2 * n_kv_heads * head_size * element_bytes


def has_spans(options: Vllm, latent: Latent, *, on_cpu: bool) -> bool:
    """Return whether an engine's steps may end between the iterations of its deeper requests.

    That changes no token, so it is no option, but a matter of what the engine can do. Only with
    V1's runner and without asynchronous scheduling, which is the CPU's way; and with loops that are
    known to allow it. An exit rule decides in the worker how long a token iterates, and a draft is
    verified in one pass. The scheduler is `latent.spans`.
    """
    v2 = _second_runner("0")
    depths = bool(latent.schedule.think) and latent.max_depth > 1
    plain = all(
        getattr(latent, f.name) == f.default for f in fields(latent) if f.name not in _POSSIBLE
    )
    return on_cpu and not v2 and depths and plain and options.tensor_parallel == 1


def _second_runner(default: str) -> bool:
    """Return whether vLLM runs models in its V2 runner, which it does by default as said."""
    return os.environ.get("VLLM_USE_V2_MODEL_RUNNER", default).lower() in ("1", "true")


def require_noise(noise: float, name: str, model: Model) -> None:
    """Raise PlanFault if a pool's model, on this machine, has no latent state to add noise to."""
    config = known_config(model.path)
    latent = None if config is None else latent_of(config, model, name)
    if config is not None and (latent is None or latent.max_depth == 1):
        raise PlanFault(
            "sampling.latent_noise",
            f"sampling.latent_noise = {noise:g}: it is added to the state that a loop starts from, "
            f"and the model of pool {name!r} does not loop; leave it out, or set "
            f"models.{name}.layers and max_depth",
        )


def _require_possible(options: Vllm, name: str, path: str, latent: Latent) -> None:
    """Raise PlanError for options, or a model folder, with which no schedule can run."""
    if options.enforce_eager is False:
        raise PlanError(
            f"models.{name} has a layer schedule, which runs eagerly: leave enforce_eager out. "
            "Its loops depend on each request's depth, and a compiled graph is made once"
        )
    if (Path(path) / "adapter_config.json").is_file():
        raise PlanError(
            f"models.{name}: {path} is a LoRA adapter, which a loop would apply several times: "
            "merge it into its model first"
        )
    if latent.exit and parse_exit(latent.exit).reads_predictions and options.tensor_parallel > 1:
        raise PlanError(
            f"models.{name}: exit = {latent.exit!r} reads predictions, and each GPU has a part "
            "of them: take state<... or tensor_parallel = 1"
        )
    if latent.cascade and options.tensor_parallel > 1:
        raise PlanError(
            f"models.{name}: cascade = {latent.cascade!r} has not been tried over several GPUs: "
            "set tensor_parallel = 1"
        )

    backend = str(options.args.get("attention_backend", "auto")).upper()
    in_order = latent.kv_iterations and latent.kv_writes == LAST
    if in_order and backend not in ("AUTO", *_SKIPPING):
        raise PlanError(
            f'models.{name}: kv_writes = "last" computes the tokens of a prompt one after another, '
            f"which args.attention_backend = {backend!r} cannot: take one of "
            f'{", ".join(_SKIPPING)}, or kv_writes = "first"'
        )


def _config(path: str, revision: str) -> Mapping[str, Any]:
    """Return the config.json of a folder, or of a model on the hub, cached or downloaded."""
    file = Path(path) / "config.json"
    if file.is_file():
        config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return config
    from transformers import PretrainedConfig

    try:
        config = PretrainedConfig.get_config_dict(path, revision=revision or None)[0]
    except (OSError, ValueError) as error:
        raise PlanError(f"the configuration of model {path!r} cannot be read: {error}") from error
    return config


@dataclass(frozen=True, slots=True)
class Computation:
    """The layers that a request ran: of each of its tokens, on average, and of its drafts in all.

    `metrics` has what a looped model did: `mean_depth`, iterations per generated token under an
    exit rule; `drafted` and `accepted`, the tokens that it drafted for itself and those kept.
    `depths` are the iterations of each generated token under an exit rule.
    """

    n_layers: float
    draft_layer_tokens: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    depths: tuple[int, ...] = ()


async def computation_of(llm: Any, request_id: str, latent: Latent, depth: int) -> Computation:
    """Return, once, what vLLM's request at this depth took, as the worker counted it."""
    schedule, draft = latent.schedule, latent.draft
    n_deep = schedule.n_layers_run(depth)
    if latent.cascade and depth > parse_cascade(latent.cascade).depth:
        n_deep += len(schedule.tail)  # once more, for the early prediction
    n_layers: float = n_deep
    n_in_drafts = 0
    metrics: dict[str, float] = {}
    depths: tuple[int, ...] = ()
    if latent.exit and (counts := await _called(llm, "take_depth_counts", request_id)):
        iterations = IterationCounts(*counts)
        n_layers = schedule.n_layers_run(0) + len(schedule.think) * iterations.mean_of_all
        if iterations.tokens:
            metrics["mean_depth"] = iterations.mean_depth
        depths = tuple(iterations.each)
    if draft is not None:
        n, n_kept = await _called(llm, "take_draft_counts", request_id) or (0, 0)
        # drafting, and verifying what was rejected
        n_in_drafts = n * draft.n_layers(schedule)
        n_in_drafts += (n - n_kept) * n_deep
        metrics |= {"drafted": float(n), "accepted": float(n_kept)}
    return Computation(n_layers, n_in_drafts, metrics, depths)


async def _called(llm: Any, method: str, request_id: str) -> Any:
    """Return what a method of the worker returns for a request.

    ConnectionError if the engine has died: vLLM never answers a call to a dead engine, so this also
    checks the engine while it waits.
    """
    call = asyncio.ensure_future(llm.collective_rpc(method, args=(request_id,)))
    try:
        while not (await asyncio.wait([call], timeout=1.0))[0]:
            if llm.errored:
                raise ConnectionError("the engine died before it gave a request's counts")
    finally:
        call.cancel()
    return call.result()[0]  # all ranks have the same counts


@dataclass(slots=True)
class IterationCounts:
    """Tokens that a request ran and the iterations they took: of its prompt, and its own.

    The prompt's last token, which predicts the first one generated, counts as the request's own.
    `each` has the iterations of its own tokens by their place; what is computed again, after a
    preemption, is counted again but listed once.
    """

    prompt_tokens: int = 0
    prompt_iterations: int = 0
    tokens: int = 0
    iterations: int = 0
    each: list[int] = field(default_factory=list)

    def add(self, prompt: Sequence[int], own: Sequence[int], first: int) -> None:
        """Count one step's tokens by the iterations of each; `own` begin at the place `first`."""
        self.prompt_tokens += len(prompt)
        self.prompt_iterations += sum(prompt)
        self.tokens += len(own)
        self.iterations += sum(own)
        self.each[first : first + len(own)] = own

    def retract(self, n: int) -> None:
        """Take back the last `n` tokens of the last step: rejected drafts."""
        self.tokens -= n
        rejected = self.each[len(self.each) - n :]
        self.iterations -= sum(rejected)
        del self.each[len(self.each) - n :]

    @property
    def mean_depth(self) -> float:
        """Iterations per generated token, as a trace reports."""
        return self.iterations / self.tokens

    @property
    def mean_of_all(self) -> float:
        """Iterations per token including the prompt, as a trace is charged."""
        return (self.prompt_iterations + self.iterations) / (self.prompt_tokens + self.tokens)


@dataclass(slots=True)
class DraftCounts:
    """Tokens that were drafted for a request and verified, and those of them that were kept."""

    drafted: int = 0
    accepted: int = 0

    def add(self, drafted: int, accepted: int) -> None:
        """Count one step."""
        self.drafted += drafted
        self.accepted += accepted


class Ledger(Generic[T]):
    """Counts by request, until they are taken."""

    def __init__(self, new: Callable[[], T]) -> None:
        """Begin with no request; `new` makes the counts of one."""
        self._new = new
        self._counts: OrderedDict[str, T] = OrderedDict()

    def of(self, request: str) -> T:
        """Return the counts of a request, to add to."""
        counts = self._counts.setdefault(request, self._new())
        self._counts.move_to_end(request)
        if len(self._counts) > _MAX_UNTAKEN:
            self._counts.popitem(last=False)
        return counts

    def take(self, request: str) -> T | None:
        """Return a request's counts and forget them; None if nothing was added."""
        return self._counts.pop(request, None)
