"""One real vLLM engine with the embedded model for the whole session: it takes a minute to start,
so tests share it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm

CONTEXT_TOKENS = 1024


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine() -> AsyncIterator[VllmEngine]:
    """Yield the engine; its one pool is "main". A test leaves it idle and alive."""
    options = Vllm(kv_cache_gib=1, max_num_seqs=64, threads=1)
    async with options.open(
        {"main": Model("smollm2", max_context_tokens=CONTEXT_TOKENS)}
    ) as engine:
        yield engine
