"""Which replica serves a request: model and depth first, then prefix affinity, then load. Pure.

Affinity only breaks near-ties: a problem's requests share a prompt, so the replica that holds its
prefix is preferred as long as it is at most `SLACK` requests busier than the idlest one that could
serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.values import Request

SLACK = 4


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What routing knows of one replica.

    `depths` None: it serves any depth the model allows, () : only the model's own.
    """

    index: int
    model: str
    n_running: int
    depths: tuple[int, ...] | None = ()


def serves(replica: ReplicaView, request: Request) -> bool:
    """Tell whether a replica has the model and the depth a request asks for."""
    if replica.model != request.model:
        return False
    return request.depth is None or replica.depths is None or request.depth in replica.depths


def route(
    request: Request, replicas: Sequence[ReplicaView], preferred: int | None = None
) -> int | None:
    """Return the index of the replica to use, or None when none serves it.

    Ties go to the lowest index.
    """
    able = [r for r in replicas if serves(r, request)]
    if not able:
        return None
    idlest = min(able, key=lambda r: (r.n_running, r.index))
    for replica in able:
        if replica.index == preferred and replica.n_running <= idlest.n_running + SLACK:
            return replica.index
    return idlest.index
