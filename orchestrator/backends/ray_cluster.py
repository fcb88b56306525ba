"""All that is said to Ray: connect or start, place an actor, await it, kill it. The only file that imports ray, when first needed.

Ray is started and left on a thread of its own that outlives everything it starts: a local Ray dies with the thread that made it
(PR_SET_PDEATHSIG), which is how nothing of it survives a killed driver, and `ray.init` blocks for seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.backends.ray_replica import Replica
from orchestrator.core.errors import FleetError

logger = logging.getLogger(__name__)
Resources: TypeAlias = Mapping[str, float]

STORE_BYTES = 256 * 2**20  # object store of a local Ray: it holds batches in passage only; Ray's default is 30 % of the memory
MAX_REASON = 500  # characters of Ray's account of a death that are worth showing


@dataclass(frozen=True, slots=True)
class Node:
    """A living machine of the cluster and what it has in all."""

    resources: Resources


class ReplicaDied(Exception):
    """A call to a replica cannot be answered; says why."""


@asynccontextmanager
async def connected(address: str, start_seconds: float) -> AsyncIterator[list[Node]]:
    """Yield the nodes of the cluster at `address`, of RAY_ADDRESS, of a Ray this process is connected to already, or of a new local one.

    Only what was started or connected here is shut down. FleetError when there is no such cluster or it does not accept us.
    """
    ray = _import()
    if ray.is_initialized():
        yield _nodes(ray)
        return
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="ray") as thread, _local_token():
        session: list[str] = []
        try:
            await _within(loop.run_in_executor(thread, _connect, ray, address, session), start_seconds, address)
            yield _nodes(ray)
        finally:
            await asyncio.shield(loop.run_in_executor(thread, _disconnect, ray, session))
