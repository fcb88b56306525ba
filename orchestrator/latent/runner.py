"""How the depths of a step's requests reach the model: a hook for each of vLLM's two model runners.

V1 has no place for it, so its method that makes the model's keyword arguments is wrapped, for models of ours only. V2 lets a model name
the class that prepares its inputs (`get_model_state_cls`). Dummy and warm-up runs get no rows, which means the largest depth.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from orchestrator.latent.check import DEPTH_ARGUMENT
from orchestrator.latent.rows import Rows


def wanted_depth(params: Any, default: int) -> int:
    """Return the depth that a request's sampling parameters ask for."""
    arguments: Mapping[str, Any] = getattr(params, "extra_args", None) or {}
    return int(arguments.get(DEPTH_ARGUMENT, default))


def install_v1() -> None:
    """Make V1's runner hand `rows` to models that have a `latent_depth`; once, however often it is called."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    stock = GPUModelRunner._init_model_kwargs
    if getattr(stock, "hands_rows", False):
        return

    @functools.wraps(stock)
    def with_rows(self: Any, num_reqs: int | None = None) -> dict[str, Any]:
        arguments: dict[str, Any] = stock(self, num_reqs)
        default = getattr(self.get_model(), "latent_depth", None)
        if default is not None and num_reqs != 0:  # 0 is how a dummy run calls it
            arguments["rows"] = _rows_v1(self, default)
        return arguments

    with_rows.hands_rows = True  # type: ignore[attr-defined]  # a mark for the next call
    GPUModelRunner._init_model_kwargs = with_rows


def _rows_v1(runner: Any, default: int) -> Rows:
    batch = runner.input_batch
    ids = batch.req_ids[: batch.num_reqs]
    depths = tuple(wanted_depth(runner.requests[name].sampling_params, default) for name in ids)
    return Rows(depths, tuple(runner.query_start_loc.np[: batch.num_reqs + 1].tolist()))
