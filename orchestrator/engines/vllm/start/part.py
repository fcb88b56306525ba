"""The parts of an engine that is spread over several nodes, by vLLM's own way of several nodes.

The first node runs the engine, and each other one only its workers (what `vllm serve --headless
--nnodes` does: vllm 0.32, `entrypoints/cli/serve.py`, `run_headless`). Imports vllm only when
called. Not covered: where the nodes are, and what happens when one is lost (the `ray` engine).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from orchestrator.core.protocols import EngineNode


def part_arguments(node: EngineNode | None) -> dict[str, Any]:
    """Return the arguments of the part on this node; none for an engine on one node.

    Sets the variable by which vLLM and its processes know this node's address.
    """
    if node is None:
        return {}
    os.environ["VLLM_HOST_IP"] = node.address
    return {
        "distributed_executor_backend": "mp",
        "nnodes": len(node.addresses),
        "node_rank": node.rank,
        "master_addr": node.addresses[0],
        "master_port": node.port,
    }


class VllmWorkers:
    """The workers of one node, without an engine."""

    def __init__(self, config: Any) -> None:
        """Start them; blocks until those of all nodes have found each other."""
        from vllm.v1.executor.multiproc_executor import MultiprocExecutor

        self._executor = MultiprocExecutor(config, monitor_workers=False)

    async def wait(self) -> str:
        """Return the reason when one of them has died."""
        await asyncio.to_thread(self._executor.start_worker_monitor, inline=True)
        return "a worker of vLLM died; the reason is in the log above"

    def close(self) -> None:
        """End them."""
        self._executor.shutdown()
