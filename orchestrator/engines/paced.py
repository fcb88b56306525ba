"""Timing of engines without a model: each token takes a fixed time, and requests can be aborted.

The one rule: nothing here changes a reply's content, only how much of it is generated in time.
"""

from __future__ import annotations

import asyncio

from orchestrator.core.values import Request


class PacedEngine:
    """An engine with requests that take the time of their tokens, unless they are aborted."""

    def __init__(self) -> None:
        self._aborts: dict[tuple[str, int], asyncio.Event] = {}

    def abort(self, request: Request) -> None:
        """Stop a request; its trace is returned with the tokens so far."""
        event = self._aborts.get(request.identity)
        if event is not None:
            event.set()

    async def tokens_before_abort(
        self, request: Request, n_tokens: int, seconds_per_token: float, hangs: bool = False
    ) -> int | None:
        """Wait for the tokens; return the number before an abort, or None if there was no abort.

        A request that hangs waits until it is aborted.
        """
        if not hangs and not n_tokens * seconds_per_token:
            return None
        identity = request.identity
        event = self._aborts[identity] = asyncio.Event()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(None if hangs else n_tokens * seconds_per_token):
                await event.wait()
        except TimeoutError:
            return None
        finally:
            del self._aborts[identity]
        if not seconds_per_token:
            return 0
        return min(n_tokens, int((loop.time() - began) / seconds_per_token))
