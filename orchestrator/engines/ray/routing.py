"""Routes a request to a pool and a replica by depth, prefix affinity and load. Pure.

Affinity only breaks near-ties. A problem's requests share a prompt, so the replica that holds its
prefix is preferred as long as it is at most `SLACK` requests busier than the idlest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.plan import same_weights
from orchestrator.core.values import Request
from orchestrator.engines.ray.pools import PoolSpec

SLACK = 4


def at_its_depth(request: Request, pools: Sequence[PoolSpec]) -> Request:
    """Return the request, addressed to a pool that serves its depth.

    That is the pool it names, else the first of the same model that does. The same model is one
    that differs only in the memory set aside. Unchanged when there is none.
    """
    named = next((pool for pool in pools if request.model in ("", pool.name)), None)
    if named is None or named.serves(request.depth):
        return request
    same = (pool for pool in pools if same_weights(pool.model, named.model))
    able = next((pool for pool in same if pool.serves(request.depth)), None)
    return request if able is None else replace(request, model=able.name)


def route(n_running: Mapping[int, int], preferred: int | None = None) -> int | None:
    """Return the replica to use, by the number of requests that each replica runs.

    None when there is no replica. Ties go to the lowest number.
    """
    if not n_running:
        return None
    idlest = min(n_running, key=lambda index: (n_running[index], index))
    if preferred is None or preferred not in n_running:
        return idlest
    return preferred if n_running[preferred] <= n_running[idlest] + SLACK else idlest
