"""Hooks in vLLM's runners that pass request depths to the model and return its counts.

There is a hook for each of vLLM's two model runners. V1 has no extension point, so its method that
makes the model's keyword arguments is wrapped, for our models only. V2 lets a model name the class
that prepares its inputs (`get_model_state_cls`). Dummy and warm-up runs get no batch, which means
the largest depth. Counts are fetched by method name, through vLLM's `worker_extension_cls`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.engines.vllm.latent.batch import LatentBatch, Noise
from orchestrator.engines.vllm.latent.spans.hooks import spans_of
from orchestrator.plan.looped import DEPTH_ARGUMENT, NOISE_ARGUMENT, WARM_ARGUMENT


def requested_depth(params: Any, default: int) -> int:
    """Return the depth in a request's sampling parameters."""
    arguments: Mapping[str, Any] = getattr(params, "extra_args", None) or {}
    return int(arguments.get(DEPTH_ARGUMENT, default))


def requested_noise(params: Any) -> Noise | None:
    """Return the noise in a request's sampling parameters, which is drawn by its seed (0 if none).

    None if it requests no noise.
    """
    arguments: Mapping[str, Any] = getattr(params, "extra_args", None) or {}
    size = float(arguments.get(NOISE_ARGUMENT, 0.0))
    return Noise(size, int(params.seed or 0)) if size else None


def requests_warm_start(params: Any) -> bool:
    """Return whether a request's own tokens start from the last states of the tokens before."""
    return bool((getattr(params, "extra_args", None) or {}).get(WARM_ARGUMENT))


def _present(noise: Iterable[Noise | None]) -> tuple[Noise | None, ...]:
    """Return the noise of each request of a step; () if none has any."""
    found = tuple(noise)
    return found if any(found) else ()


def install_v1() -> None:
    """Make V1's runner pass `batch` to models with a `latent_depth`; may be called again."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    stock = GPUModelRunner._init_model_kwargs
    if getattr(stock, "hands_batch", False):
        return

    @functools.wraps(stock)
    def with_batch(self: Any, num_reqs: int | None = None) -> dict[str, Any]:
        arguments: dict[str, Any] = stock(self, num_reqs)
        default = getattr(self.get_model(), "latent_depth", None)
        if default is not None and num_reqs != 0:  # 0 marks a dummy run
            arguments["batch"] = _batch_v1(self, default)
        return arguments

    with_batch.hands_batch = True  # type: ignore[attr-defined]  # a mark for the next call
    GPUModelRunner._init_model_kwargs = with_batch


def _batch_v1(runner: Any, default: int) -> LatentBatch:
    batch = runner.input_batch
    ids = batch.req_ids[: batch.num_reqs]
    params = [runner.requests[name].sampling_params for name in ids]
    depths = tuple(requested_depth(own, default) for own in params)
    prompts = tuple(runner.requests[name].num_prompt_tokens for name in ids)
    starts = tuple(runner.query_start_loc.np[: batch.num_reqs + 1].tolist())
    noise = _present(map(requested_noise, params))
    warm = tuple(map(requests_warm_start, params))
    spans = spans_of(runner, depths)
    return LatentBatch(depths, starts, tuple(ids), prompts, noise, spans, warm if any(warm) else ())


def model_state_v2() -> Any:
    """Return the class of V2's model state that passes `batch` to the model.

    It stores each request's depth and prompt length as long as the request exists.
    """
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState

    class LatentModelState(DefaultModelState):  # type: ignore[misc]  # vllm is untyped to us
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.depths: dict[str, int] = {}
            self.prompts: dict[str, int] = {}  # lengths in tokens
            self.noise: dict[str, Noise | None] = {}

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            self.depths[new_req_data.req_id] = requested_depth(
                new_req_data.sampling_params, self.model.latent_depth
            )
            self.prompts[new_req_data.req_id] = len(new_req_data.prompt_token_ids or ())
            self.noise[new_req_data.req_id] = requested_noise(new_req_data.sampling_params)

        def remove_request(self, req_id: str) -> None:
            super().remove_request(req_id)
            self.depths.pop(req_id, None)
            self.prompts.pop(req_id, None)
            self.noise.pop(req_id, None)

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
            return {
                **super().prepare_inputs(input_batch, req_states),
                "batch": batch_v2(self.depths, self.prompts, self.noise, input_batch),
            }

    return LatentModelState


def batch_v2(
    depths: Mapping[str, int],
    prompts: Mapping[str, int],
    noise: Mapping[str, Noise | None],
    input_batch: Any,
) -> LatentBatch | None:
    """Return a V2 batch in the model's form; None for a dummy batch, with unknown requests."""
    ids = input_batch.req_ids[: input_batch.num_reqs]
    if not all(name in depths for name in ids):
        return None
    starts = tuple(input_batch.query_start_loc_np[: input_batch.num_reqs + 1].tolist())
    return LatentBatch(
        tuple(depths[name] for name in ids),
        starts,
        tuple(ids),
        tuple(prompts[name] for name in ids),
        _present(noise[name] for name in ids),
    )


class DepthCounts:
    """A mixin for vLLM's worker class: its methods are called by name through `collective_rpc`.

    A step is counted before its output leaves the worker, so all steps of a request are counted
    once its last output has arrived.
    """

    model_runner: Any

    def take_depth_counts(self, request: str) -> tuple[Any, ...] | None:
        """Return, once, the fields of a request's `IterationCounts`; None if none of it ran."""
        counts = self.model_runner.get_model().loop.ledger.take(request)
        return None if counts is None else dataclasses.astuple(counts)

    def take_draft_counts(self, request: str) -> tuple[int, ...] | None:
        """Return, once, a request's `DraftCounts` as a tuple; None if nothing was drafted."""
        counts = self.model_runner.get_model().loop.drafts.take(request)
        return None if counts is None else dataclasses.astuple(counts)
