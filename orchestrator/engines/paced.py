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
        # of running requests: when they began, seconds per token, and their tokens
        self._paces: dict[tuple[str, int], tuple[float, float, int]] = {}

    def abort(self, request: Request) -> None:
        """Stop a request; its trace is returned with the tokens so far."""
        event = self._aborts.get(request.identity)
        if event is not None:
            event.set()

    def running_tokens(self) -> int:
        """Return the tokens so far of the requests that run."""
        now = asyncio.get_running_loop().time()
        return sum(min(n, int((now - began) / each)) for began, each, n in self._paces.values())

    async def tokens_before_abort(
        self, request: Request, n_tokens: int, seconds_per_token: float, hangs: bool = False
    ) -> int | None:
        """Wait for the tokens; return the number before an abort, or None if all were there.

        A request that hangs waits until it is aborted.
        """
        if not hangs and not n_tokens * seconds_per_token:
            return None
        identity = request.identity
        event = self._aborts[identity] = asyncio.Event()
        loop = asyncio.get_running_loop()
        began = loop.time()
        if seconds_per_token:
            self._paces[identity] = began, seconds_per_token, n_tokens
        try:
            async with asyncio.timeout(None if hangs else n_tokens * seconds_per_token):
                await event.wait()
        except TimeoutError:
            return None
        finally:
            del self._aborts[identity]
            self._paces.pop(identity, None)
        if not seconds_per_token:
            return 0
        n_done = int((loop.time() - began) / seconds_per_token)
        if n_done >= n_tokens and not hangs:  # the abort came too late: the reply is whole
            return None
        return min(n_tokens, n_done)
