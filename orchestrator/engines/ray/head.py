"""Tells whether the head of the cluster is there, by connecting to it.

The one rule: nothing here calls Ray's own client, which waits for a lost head and then ends the
process (ray 2.60: after 60 s, or what `cluster` sets). Not covered: a head that accepts connections
and does nothing; replicas that are placed work without it.
"""

from __future__ import annotations

import asyncio

from orchestrator.engines.ray import cluster

CHECK_SECONDS = 2.0  # between two connections
LOST_SECONDS = 20.0  # without any; well within the 60 s


async def head_answered() -> None:
    """Wait until the head accepts a connection."""
    while not await cluster.head_answers():  # noqa: ASYNC110  # nothing here would set an event
        await asyncio.sleep(CHECK_SECONDS)


async def head_lost() -> str:
    """Return the reason to end, once the head has accepted no connection for a while."""
    loop, address = asyncio.get_running_loop(), cluster.head_address()
    answered = loop.time()
    while loop.time() - answered < LOST_SECONDS:
        await asyncio.sleep(CHECK_SECONDS)
        if await cluster.head_answers():
            answered = loop.time()
    return (
        f"the head of the Ray cluster at {address} has not answered for {LOST_SECONDS:g} s; start "
        "the cluster again, then run the same command"
    )
