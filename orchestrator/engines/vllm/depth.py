"""Layer schedules in a vLLM engine: the arguments at the start, and iteration counts.

`orchestrator.plan.looped` decides which depths a model can serve; this module checks them against
the engine's options and this machine. The one rule: it reads config.json and starts nothing. Not
covered: running the schedule (`latent`).
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import parse_exit
from orchestrator.core.plan import Model
from orchestrator.plan.looped import Latent, latent_of, require_room, usual_names

if TYPE_CHECKING:
    from orchestrator.engines.vllm.options import Vllm

# requests with counts that are never taken: failed ones, and those with a cancelled consumer
_MAX_UNTAKEN = 100_000
_ELEMENT_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


def prepare(
    options: Vllm, name: str, model: Model, path: str, arguments: dict[str, Any]
) -> Latent | None:
    """Return the model's schedule, and add the necessary arguments to the engine's `arguments`.

    For a stock model it returns None and adds nothing. PlanError if the model or this engine cannot
    run as the plan says.
    """
    config = usual_names(_config(path, model.revision))
    latent = latent_of(config, model, name)
    if latent is None:
        return None
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
    if latent.exit and parse_exit(latent.exit).measure == "kl" and options.tensor_parallel > 1:
        raise PlanError(
            f"models.{name}: exit = {latent.exit!r} compares predictions, and each GPU has a part "
            "of them: take state<... or tensor_parallel = 1"
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
    if latent.exit:
        arguments["worker_extension_cls"] = "orchestrator.engines.vllm.latent.runner.DepthCounts"
    return latent


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


async def take_counts(llm: Any, request_id: str) -> IterationCounts | None:
    """Return, once, the iterations that vLLM's request took; None if none of it has run.

    ConnectionError if the engine has died: vLLM never answers a call to a dead engine, so this also
    checks the engine while it waits.
    """
    call = asyncio.ensure_future(llm.collective_rpc("take_depth_counts", args=(request_id,)))
    try:
        while not (await asyncio.wait([call], timeout=1.0))[0]:
            if llm.errored:
                raise ConnectionError("the engine died before it gave a request's iterations")
    finally:
        call.cancel()
    fields = call.result()[0]  # all ranks have the same counts
    return None if fields is None else IterationCounts(*fields)


@dataclass(slots=True)
class IterationCounts:
    """Tokens that a request ran and the iterations they took: of its prompt, and its own.

    The prompt's last token, which predicts the first one generated, counts as the request's own.
    """

    prompt_tokens: int = 0
    prompt_iterations: int = 0
    tokens: int = 0
    iterations: int = 0

    def add(self, prompt: Sequence[int], own: Sequence[int]) -> None:
        """Count one step's tokens by the iterations of each."""
        self.prompt_tokens += len(prompt)
        self.prompt_iterations += sum(prompt)
        self.tokens += len(own)
        self.iterations += sum(own)

    @property
    def mean_depth(self) -> float:
        """Iterations per generated token, as a trace reports."""
        return self.iterations / self.tokens

    @property
    def mean_of_all(self) -> float:
        """Iterations per token including the prompt, as a trace is charged."""
        return (self.prompt_iterations + self.iterations) / (self.prompt_tokens + self.tokens)


class IterationLedger:
    """Counts by request, until they are taken."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, IterationCounts] = OrderedDict()

    def add(self, request: str, prompt: Sequence[int], own: Sequence[int]) -> None:
        """Count one step of a request."""
        self._counts.setdefault(request, IterationCounts()).add(prompt, own)
        self._counts.move_to_end(request)
        if len(self._counts) > _MAX_UNTAKEN:
            self._counts.popitem(last=False)

    def take(self, request: str) -> IterationCounts | None:
        """Return a request's counts and forget them; None if nothing was added."""
        return self._counts.pop(request, None)
