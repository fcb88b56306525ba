"""Requests to the engine itself: those of commands that explore on their own side.

The one rule: a request ends with its connection, and one that the end of the service interrupts has
no trace: its command sends it again. Not covered: the bytes (`wire`) and what a request costs
(`access`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import msgspec

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.values import Finish, Media, Request, Trace, media_of
from orchestrator.engines.reply import trace_for, validated
from orchestrator.serve.access.keys import Client
from orchestrator.serve.protocol.faults import Fault, broken, busy, shutting_down
from orchestrator.serve.running.entries import BatchEntry, InteractiveEntry, SharedWindow
from orchestrator.serve.sharing.wire import Description, Order

_N_REMEMBERED = 1000  # aborts that overtook their requests
_FETCHED = "the service fetches no media; use data: URIs"


@dataclass(slots=True)
class _Running:
    entry: BatchEntry | InteractiveEntry
    request: Request
    task: asyncio.Future[Trace]


@dataclass(slots=True, eq=False)
class DirectAccess:
    """The engine behind a window, for orders; at most `max_open` of others at a time."""

    window: SharedWindow
    description: Description
    max_open: int
    is_draining: bool = False
    _open: dict[tuple[str, str], _Running] = field(default_factory=dict)
    _aborted: deque[tuple[str, str]] = field(
        default_factory=lambda: deque[tuple[str, str]](maxlen=_N_REMEMBERED)
    )

    async def generate(self, client: Client, order: Order) -> Trace:
        """Return the trace of an order; Fault if it cannot be served, now or at all."""
        key = (client.name, order.id)
        self._require_served(key, order, client)
        if key in self._aborted:
            return trace_for(order.request, Finish.CANCELLED)
        is_foreign = not client.is_own_user
        if is_foreign and any(map(_is_elsewhere, media_of(order.request.prompt))):
            return trace_for(order.request, Finish.FAILED, error=_FETCHED)
        entry = BatchEntry(self.window) if order.is_batch else InteractiveEntry(self.window)
        task = asyncio.ensure_future(entry.generate(order.request))
        self._open[key] = _Running(entry, order.request, task)
        try:
            return validated(order.request, await task)
        except asyncio.CancelledError:
            if self.is_draining and task.cancelled():
                raise shutting_down() from None
            raise
        except Unavailable as error:
            code = "exhausted" if error.exhausted else "unavailable"
            seconds = int(error.retry_after_seconds or 0)
            raise Fault(503, str(error), code, retry_after_seconds=seconds) from error
        except EngineError as error:
            raise broken(str(error), 502) from error
        finally:
            del self._open[key]

    def abort(self, owner: str, id: str) -> None:
        """Stop an order, also one that has not come yet."""
        running = self._open.get((owner, id))
        if running is None:
            self._aborted.append((owner, id))
        else:
            running.entry.abort(running.request)

    async def drained(self) -> None:
        """Wait until no order is open; no new ones are taken."""
        self.is_draining = True
        while self._open:
            await asyncio.wait([one.task for one in self._open.values()])
            await asyncio.sleep(0)

    def stop_all(self) -> None:
        """End all orders without a trace."""
        self.is_draining = True
        for one in self._open.values():
            one.task.cancel()

    def _require_served(self, key: tuple[str, str], order: Order, client: Client) -> None:
        if self.is_draining:
            raise shutting_down()
        if order.digest != self.description.digest:
            raise Fault(409, "the service has another plan now", "other_engine")
        if key in self._open:
            raise Fault(400, "an order of this id is open", "order")
        if len(self._open) >= self.max_open and not client.is_own_user:
            raise busy("too many requests are waiting; send this one again later", 1, "overloaded")


def _is_elsewhere(medium: Media) -> bool:
    """Tell whether a medium is not data: who may use the engine may not send it elsewhere."""
    try:
        body = msgspec.json.decode(medium.body, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError):
        return True
    return "url" in body and str(body["url"])[:5].lower() != "data:"
