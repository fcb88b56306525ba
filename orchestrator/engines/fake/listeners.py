"""Reports the text of fake requests as their tokens come, at the pace of the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable


@contextlib.asynccontextmanager
async def informed(
    on_text: Callable[[str], None], texts: Callable[[int], str], n_tokens: int, seconds: float
) -> AsyncIterator[None]:
    """Report, during the block, a token every so many seconds; at its end the rest.

    `texts` returns the text of the first n tokens.
    """
    sent = ""

    def report(n: int) -> None:
        nonlocal sent
        text = texts(n)
        if text != sent:
            on_text(text[len(sent) :])
            sent = text

    async def each_token() -> None:
        for n in range(1, n_tokens):
            await asyncio.sleep(seconds)
            report(n)

    task = asyncio.create_task(each_token()) if seconds else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
    report(n_tokens)
