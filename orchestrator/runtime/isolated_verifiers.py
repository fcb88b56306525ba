"""Runs synchronous verifiers in processes that can be killed.

The one rule: a verifier that hangs, crashes or uses too much memory loses its process and leaves a
note on the trace; it never gives a score. Each verifier has its own processes, as many as there are
cores, with the limits that it declares. `orchestrator.runtime.verify` runs the other two forms of
verifier.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import IsolatedVerifier
from orchestrator.core.values import PluginSpec, Problem, Trace, Verdict
from orchestrator.plan import registry
from orchestrator.runtime.workers.child import Check, Load
from orchestrator.runtime.workers.pool import CallFailed, WorkerPool, plugin_reference


class IsolatedVerifiers:
    """The verifiers of a plan that run in worker processes; belongs to one event loop."""

    def __init__(self, specs: Sequence[PluginSpec]) -> None:
        """Load the plugins; no process is started yet."""
        loaded = {spec.name: (spec, registry.load("verifiers", spec)) for spec in specs}
        self._verifiers: dict[str, tuple[PluginSpec, IsolatedVerifier]] = {
            name: (spec, plugin) for name, (spec, plugin) in loaded.items() if is_isolated(plugin)
        }
        self._pools = {
            name: WorkerPool(_n_cores(), plugin.memory_mib << 20)
            for name, (_, plugin) in self._verifiers.items()
        }

    async def load(self) -> None:
        """Load each verifier in a process; raises PluginError when one does not load."""
        for name, pool in self._pools.items():
            async with pool.worker(self._reference(name)):
                pass

    async def verdict(self, name: str, problem: Problem, trace: Trace) -> Verdict:
        """Return a verifier's verdict on a trace.

        Raises NoVerdict, with the reason, if there is none.
        """
        try:
            call, seconds = Check(problem, trace), self._verifiers[name][1].seconds
            return await self._pools[name].call(self._reference(name), call, Verdict, seconds)
        except CallFailed as failure:
            raise NoVerdict(str(failure)) from failure

    async def aclose(self) -> None:
        """Kill all processes and wait for them to end."""
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))

    def _reference(self, name: str) -> Load:
        spec, plugin = self._verifiers[name]
        revision: str = getattr(plugin, "revision", "")
        return plugin_reference("verifiers", spec, revision=revision)


async def check_isolated(specs: Sequence[PluginSpec]) -> None:
    """Raise PluginError when a verifier that runs in worker processes does not load in one."""
    async with contextlib.aclosing(IsolatedVerifiers(specs)) as verifiers:
        await verifiers.load()


def is_isolated(verifier: object) -> bool:
    """Return whether a verifier has the form that runs in a worker process."""
    return hasattr(verifier, "check")


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
