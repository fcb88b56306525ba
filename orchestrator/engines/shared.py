"""One engine that several jobs share, one after another, because loading a model takes minutes.

The one rule: the engine is opened and closed in the same task, regardless of the jobs that run in
between. The caller decides which jobs run, and in which order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from orchestrator.core.plan import Model
from orchestrator.core.protocols import Engine, EngineFactory
from orchestrator.core.values import Capability
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution


class SharedEngine:
    """An EngineFactory whose engine outlives the jobs: `with SharedEngine(execution) as shared:`.

    The engine starts with the first job that needs it and stops at the end of the block. All jobs
    run on the event loop of `shared.runner` and have the same models.
    """

    def __init__(self, execution: Execution) -> None:
        """Load the engine plugin; no engine is started yet."""
        self.runner = asyncio.Runner()
        self._factory: EngineFactory = registry.load("engines", execution.engine)
        self._engine: asyncio.Future[Engine] | None = None
        self._owner: asyncio.Task[None] | None = None

    def __enter__(self) -> SharedEngine:
        """Start the event loop."""
        self.runner.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the engine, if one was started, and close the event loop."""
        try:
            self.runner.run(self._close())
        finally:
            self.runner.close()

    @property
    def is_open(self) -> bool:
        """Whether the engine is up or has failed to start."""
        return self._engine is not None and self._engine.done()

    def capabilities(self) -> frozenset[Capability]:
        """Return the capabilities of the engine plugin."""
        return self._factory.capabilities()

    @contextlib.asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        """Yield the engine, which outlives this context."""
        if self._engine is None:
            self._engine = asyncio.get_running_loop().create_future()
            self._owner = asyncio.create_task(self._own(models, self._engine))
        yield await asyncio.shield(self._engine)

    async def _own(self, models: Mapping[str, Model], opened: asyncio.Future[Engine]) -> None:
        """Open and close the engine in one task, as async context managers may require."""
        try:
            async with self._factory.open(models) as engine:
                opened.set_result(engine)
                await asyncio.Event().wait()  # until this task is cancelled
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    async def _close(self) -> None:
        if self._owner is not None:
            self._owner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._owner
