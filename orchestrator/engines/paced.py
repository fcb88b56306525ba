"""What engines without a model share: tokens that take a fixed time, and requests cut short in it.

The one rule: nothing here decides what a reply says, only how much of it there was time for.
"""

from __future__ import annotations

import asyncio

from orchestrator.core.values import Request


class PacedEngine:
    """An engine whose requests wait as long as their tokens take, or until they are aborted."""

    def __init__(self) -> None:
        self._aborts: dict[tuple[str, int], asyncio.Event] = {}

    def abort(self, request: Request) -> None:
        """Stop a request; its trace comes back cut where it was."""
        event = self._aborts.get(request.identity)
        if event is not None:
            event.set()

    async def tokens_before_abort(
        self, request: Request, n_tokens: int, seconds_per_token: float, hangs: bool = False
    ) -> int | None:
        """Wait as long as the tokens take; return how many an abort left, None without one.

        A request that hangs waits for its abort.
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
