"""The drafts of looped models: whether a pool can draft for itself, and how.

The one rule: what drafts cannot do is refused before an engine starts, with the reason and the
remedy. Light: imports neither vllm nor torch. Not covered: drafting (`latent.speculation.drafts`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.layers import parse_exit
from orchestrator.core.plan import Model
from orchestrator.core.values import Sampling
from orchestrator.plan.looped import LAST, Draft, Latent, latent_of
from orchestrator.plan.models import known_config

if TYPE_CHECKING:
    from orchestrator.engines.vllm.options import Vllm

_PROPOSER = "orchestrator.engines.vllm.latent.speculation.drafts.DepthProposer"
# Tokens at which a pass takes twice as long as over a few. CPU: 58, 102, 159 and 256 ms for 4, 16,
# 32 and 64 tokens (one core, float32, 18 layers of 8 million parameters). GPU: not measured.
_STEP_TOKENS_CPU, _STEP_TOKENS_GPU = 12, 256


def draft_of(options: Vllm, name: str, latent: Latent | None, *, on_cpu: bool) -> Draft | None:
    """Return how a pool drafts for itself; None if it does not. PlanError if it cannot."""
    if not options.draft_depth:
        return None
    require_draft(options, name, latent)
    step_tokens = _STEP_TOKENS_CPU if on_cpu else _STEP_TOKENS_GPU
    return Draft(
        options.draft_depth, options.draft_tokens, options.draft_step_tokens or step_tokens
    )


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
        if not own.draft_depth:
            continue
        config = None if models[name].task else known_config(models[name].path)
        if config is not None or models[name].task:
            latent = None if config is None else latent_of(config, models[name], name)
            try:
                require_draft(own, name, latent)
            except PlanError as error:
                raise PlanFault("execution.engine", str(error)) from error
        if name in sampled:
            _require_sampling(sampling, own.draft_depth)


def require_draft(options: Vllm, name: str, latent: Latent | None) -> None:
    """Raise PlanError unless a pool that loops like this can draft at its option `draft_depth`."""
    depth = options.draft_depth
    where = f"draft_depth = {depth} of pool {name!r}"
    drop = "leave it out, or set it to 0 for this pool"
    if latent is None or not latent.schedule.think:
        raise PlanError(f"{where}: the model has no think block to run less often; {drop}")
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


def _require_sampling(sampling: Sampling, depth: int) -> None:
    reason = (
        f"vLLM does not apply it in steps with drafts (execution.engine's draft_depth = {depth}); "
        "leave out one of them"
    )
    if sampling.min_p:
        raise PlanFault("sampling.min_p", f"sampling.min_p = {sampling.min_p:g}: {reason}")
    if sampling.extra.get("logit_bias"):
        raise PlanFault("sampling.extra", f"sampling.extra.logit_bias: {reason}")
