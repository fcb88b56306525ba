"""Whether an engine's steps may end between the iterations of its deeper requests.

The one rule: it changes no token, so it is no option, but a matter of what the engine can do.
Light: imports neither vllm nor torch. Not covered: the scheduler itself (`latent.spans`).
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING

from orchestrator.plan.looped import Latent

if TYPE_CHECKING:
    from orchestrator.engines.vllm.options import Vllm

# the parts of a loop with which a token may stop after any iteration and continue later
_POSSIBLE = {"architecture", "schedule", "depth", "max_depth", "damped", "residual"}
SCHEDULER = "orchestrator.engines.vllm.latent.spans.scheduler.SpanScheduler"


def has_spans(options: Vllm, latent: Latent, *, on_cpu: bool) -> bool:
    """Return whether an engine schedules spans of iterations.

    Only with V1's runner and without asynchronous scheduling, which is the CPU's way; and with
    loops that are known to allow it. An exit rule decides in the worker how long a token iterates,
    and a draft is verified in one pass.
    """
    v2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0").lower() in ("1", "true")
    depths = bool(latent.schedule.think) and latent.max_depth > 1
    plain = all(
        getattr(latent, f.name) == f.default for f in fields(latent) if f.name not in _POSSIBLE
    )
    return on_cpu and not v2 and depths and plain and options.tensor_parallel == 1
