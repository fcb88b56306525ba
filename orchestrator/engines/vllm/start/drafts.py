"""The drafts of a pool's own model: whether it can draft for itself, and how.

The one rule: what drafts cannot do is refused before an engine starts, with the reason and the
remedy. Light: imports neither vllm nor torch. Not covered: drafting (`latent.speculation.drafts`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.layers import kept_places, parse_exit, parse_schedule
from orchestrator.core.plan import Model
from orchestrator.core.values import Sampling
from orchestrator.plan.looped import LAST, Draft, Latent, latent_of, unlooped
from orchestrator.plan.models import known_config

if TYPE_CHECKING:
    from orchestrator.engines.vllm.options import Vllm

_PROPOSER = "orchestrator.engines.vllm.latent.speculation.drafts.DepthProposer"
# Tokens at which a pass takes twice as long as over a few. CPU: 58, 102, 159 and 256 ms for 4, 16,
# 32 and 64 tokens (one core, float32, 18 layers of 8 million parameters). GPU: not measured.
_STEP_TOKENS_CPU, _STEP_TOKENS_GPU = 12, 256
# A draft with more of the layers than these is never made: `DraftLengths` finds that it costs too
# much even if all of its tokens are kept.
_MOST_LAYERS = 2 / 3


def drafting(
    options: Vllm, name: str, config: Mapping[str, Any], model: Model, *, on_cpu: bool
) -> Latent | None:
    """Return how a pool's model runs its layers, and how it drafts; None for vLLM's own class.

    PlanError if it cannot run, or draft, as plan and options say.
    """
    latent = latent_of(config, model, name)
    if not _drafts(options):
        return latent
    latent = require_draft(options, name, config, latent)
    step_tokens = options.draft_step_tokens or (_STEP_TOKENS_CPU if on_cpu else _STEP_TOKENS_GPU)
    draft = Draft(options.draft_depth, options.draft_tokens, step_tokens, options.draft_layers)
    return replace(latent, draft=draft)


def _drafts(options: Vllm) -> bool:
    return bool(options.draft_depth or options.draft_layers)


def speculative_config(draft: Draft) -> dict[str, Any]:
    """Return vLLM's settings of speculation for a model that drafts for itself."""
    return {
        "method": "custom_class",
        "model": _PROPOSER,
        "num_speculative_tokens": draft.tokens,
    }


def require_drafts(
    options: Mapping[str, Vllm],
    models: Mapping[str, Model],
    sampling: Sampling,
    sampled: Collection[str],
) -> None:
    """Raise PlanFault unless these pools can draft as their options say.

    `sampling` applies to the pools `sampled`. A model that is not on this machine is checked when
    its engine starts.
    """
    for name, own in options.items():
        if not _drafts(own):
            continue
        model = models[name]
        config = None if model.task else known_config(model.path)
        try:
            require_no_task(own, name, model)
            _require_no_adapter(own, name, model)
            if config is not None:
                require_draft(own, name, config, latent_of(config, model, name))
        except PlanError as error:
            raise PlanFault("execution.engine", str(error)) from error
        if name in sampled:
            _require_sampling(sampling, _option(own))


def require_draft(
    options: Vllm, name: str, config: Mapping[str, Any], latent: Latent | None
) -> Latent:
    """Return how a pool that drafts as its options say runs its layers. PlanError if it cannot.

    `latent` is how it runs them without drafts.
    """
    if options.draft_depth and options.draft_layers:
        raise PlanError(
            f"draft_depth = {options.draft_depth} and draft_layers = {options.draft_layers!r} of "
            f"pool {name!r}: a model that loops drafts at a smaller depth, any other one with "
            "layers left out; set one of them"
        )
    if options.draft_depth:
        _require_depth(options, name, latent)
    else:
        latent = _with_layers(options, name, config, latent)
    assert latent is not None, "a model without a schedule has no depths"
    _require_engine(options, name)
    return latent


def require_no_task(options: Vllm, name: str, model: Model) -> None:
    """Raise PlanError if a pool that drafts generates no text."""
    if model.task and _drafts(options):
        where, drop = _words(options, name)
        raise PlanError(f"{where}: models.{name}.task = {model.task!r} generates no text; {drop}")


def _option(options: Vllm) -> str:
    if options.draft_layers:
        return f"draft_layers = {options.draft_layers!r}"
    return f"draft_depth = {options.draft_depth}"


def _words(options: Vllm, name: str) -> tuple[str, str]:
    """Return how messages name a pool's drafts, and how to do without."""
    none = '""' if options.draft_layers else "0"
    drop = f"leave it out, or set it to {none} for this pool"
    return f"{_option(options)} of pool {name!r}", drop


def _require_no_adapter(options: Vllm, name: str, model: Model) -> None:
    if model.lora and options.draft_layers:
        where, drop = _words(options, name)
        raise PlanError(
            f"{where}: models.{name}.lora: adapters are applied by vLLM's own classes of models, "
            f"and drafts run in ours; {drop}"
        )


def _with_layers(
    options: Vllm, name: str, config: Mapping[str, Any], latent: Latent | None
) -> Latent:
    """Return how a model runs that drafts with fewer layers. PlanError if these make no draft."""
    where, drop = _words(options, name)
    latent = latent or unlooped(config, where, drop)
    if latent.schedule.think:
        raise PlanError(f"{where}: the model loops, and drafts at a smaller depth; set draft_depth")
    try:
        n = len(kept_places(parse_schedule(options.draft_layers), latent.schedule.head))
    except PlanError as error:
        raise PlanError(f"draft_layers of pool {name!r}: {error}") from error
    n_all = len(latent.schedule.head)
    if n > _MOST_LAYERS * n_all:
        raise PlanError(
            f"{where}: a draft with {n} of {n_all} layers costs more than it gains, and would "
            f"never be made; leave out a third or more, or {drop}"
        )
    if options.enforce_eager is False:
        raise PlanError(
            f"{where}: a model that drafts runs eagerly; leave enforce_eager out, or {drop}"
        )
    return latent


def _require_depth(options: Vllm, name: str, latent: Latent | None) -> None:
    """Raise PlanError unless a pool that loops like this can draft at its option `draft_depth`."""
    depth = options.draft_depth
    where, drop = _words(options, name)
    if latent is None or not latent.schedule.think:
        raise PlanError(
            f"{where}: the model has no think block to run less often; {drop}, or name layers "
            "that draft (draft_layers)"
        )
    if depth >= latent.max_depth:
        raise PlanError(
            f"{where}: a draft is shallower than its request, and the model serves depths up to "
            f"{latent.max_depth}; set a smaller one, or raise models.{name}.max_depth"
        )
    if latent.exit and parse_exit(latent.exit).reads_predictions:
        raise PlanError(
            f"{where}: exit = {latent.exit!r} reads the prediction of one token in a step, and a "
            f"step with drafts has several; take state<..., or {drop}"
        )
    if latent.kv_iterations and latent.kv_writes == LAST:
        raise PlanError(
            f'{where}: with kv_writes = "last" the tokens of a step run one '
            "after another, so that checking several costs as much as each alone; set kv_writes = "
            f'"first", or {drop}'
        )
    if latent.warm_start:
        raise PlanError(
            f"{where}: warm_start = {latent.warm_start:g} starts a token from the last state "
            f"of the one before, which a draft has only once it is checked; drop that, or {drop}"
        )


def _require_engine(options: Vllm, name: str) -> None:
    """Raise PlanError unless drafts are possible with a pool's other options."""
    where, drop = _words(options, name)
    if options.tensor_parallel > 1:
        raise PlanError(
            f"{where}: drafts have not been tried over several GPUs; set tensor_parallel = 1, or "
            f"{drop}"
        )
    if "logits_processors" in options.args:
        raise PlanError(
            f"{where}: args.logits_processors change the tokens of a step with drafts in a way "
            f"that vLLM does not define; {drop}"
        )
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0").lower() in ("1", "true"):
        raise PlanError(
            f"{where}: drafts run in vLLM's V1 model runner; unset VLLM_USE_V2_MODEL_RUNNER, or "
            f"{drop}"
        )


def _require_sampling(sampling: Sampling, option: str) -> None:
    reason = (
        f"vLLM does not apply it in steps with drafts (execution.engine's {option}); "
        "leave out one of them"
    )
    if sampling.min_p:
        raise PlanFault("sampling.min_p", f"sampling.min_p = {sampling.min_p:g}: {reason}")
    if sampling.extra.get("logit_bias"):
        raise PlanFault("sampling.extra", f"sampling.extra.logit_bias: {reason}")
