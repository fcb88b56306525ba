"""Routes a request to a pool and a replica by depth, prefix affinity and load. Pure.

Affinity only breaks near-ties. A problem's requests share a prompt, so the replica that has cached
its prefix is preferred while it runs at most `SLACK` more requests than the least busy one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.plan import same_weights
from orchestrator.core.values import Request
from orchestrator.engines.ray.pools import PoolSpec

SLACK = 4


def at_its_depth(request: Request, pools: Sequence[PoolSpec]) -> Request:
    """Return the request, assigned to a pool that serves its depth.

    This is the pool it names, else the first pool of the same model that serves the depth. Models
    are the same if they differ only in reserved memory. The request is unchanged if no pool fits.
    """
    named = next((pool for pool in pools if request.model in ("", *pool.models)), None)
    if named is None or named.serves(request.depth):
        return request
    same = (pool for pool in pools if same_weights(pool.model, named.model))
    able = next((pool for pool in same if pool.serves(request.depth)), None)
    return request if able is None else replace(request, model=able.name)


def route(n_running: Mapping[int, int], preferred: int | None = None) -> int | None:
    """Return the replica to use, given the number of requests that each replica runs.

    None when there is no replica. Ties go to the lowest number.
    """
    if not n_running:
        return None
    idlest = min(n_running, key=lambda index: (n_running[index], index))
    if preferred is None or preferred not in n_running:
        return idlest
    return preferred if n_running[preferred] <= n_running[idlest] + SLACK else idlest
