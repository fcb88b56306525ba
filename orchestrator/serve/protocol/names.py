"""The names of models: MODEL, with a depth and a strategy where a client wants them.

    qwen                              the pool of that name, or the one that has this model
    sounder@8                         at a latent depth
    qwen+sounding?risk=0.1            by a strategy with options
    sounder@8+consistency?n=16

The one rule: a name says the same as the object `leadline` of a request's body
(`orchestrator.jobs.openai_batch.extension`), for clients that can set nothing but a name.
"""

from __future__ import annotations

from orchestrator.core.plan import Plan
from orchestrator.jobs.openai_batch import named_pools
from orchestrator.plan.keys import near
from orchestrator.serve.protocol.faults import Fault, invalid

_MAX_DIGITS = 5  # of a depth


def pool_and_settings(name: str, plan: Plan) -> tuple[str, dict[str, object]]:
    """Return the model pool that a name chooses, and what else it sets, as `leadline` would.

    Fault 404 for an unknown model.
    """
    pools = named_pools(plan.models)
    known = max((n for n in pools if _begins(name, n)), key=len, default=None)
    if known is None:
        own = name.partition("+")[0].partition("@")[0]
        raise Fault(
            404,
            f"there is no model {own[:200]!r}{near(own, pools)}; there are: {', '.join(pools)}",
            "model_not_found",
            "model",
        )
    settings: dict[str, object] = {}
    depth, _, strategy = name[len(known) :].partition("+")
    if depth:
        digits = depth[1:]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            raise invalid(f"the depth in {name[:200]!r} must be a whole number", "model")
        settings["depth"] = int(digits)
    if strategy:
        settings["strategy"] = strategy
    return pools[known], settings


def _begins(name: str, known: str) -> bool:
    rest = name[len(known) :]
    return name.startswith(known) and (not rest or rest[0] in "@+")
