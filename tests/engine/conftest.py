"""The engines that tests share, and the programs that run beside them.

An engine takes half a minute to start. So there is one of each kind, which all files share: tests
that use the same one come one after another, and it is closed before the next one is opened. What
needs processes of its own (a kill, a dozen engines in one process) is a program: `prepare` of a
test file runs it in the background from the first test on, and its tests, which come last, read
what it left behind.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.plan.models import resolve_model

HERE = Path(__file__).parent
CONTEXT_TOKENS = 1024
FLOAT = "float32"  # as the references; some CPUs would run in bfloat16
LATENT = HERE.parent / "engines" / "vllm" / "latent"  # tiny looped models and their references
sys.path[:0] = [str(HERE / "cases"), str(LATENT)]  # tests are no package

from processes import Programs  # noqa: E402
from tool_template import TOOL_TEMPLATE  # noqa: E402

# Tests of one engine together; those of programs that run in the background last.
ENGINES = ("vllm_engine", "pools", "doomed_engine", "root", "ray", "prepared")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests of this folder by the engine that they use; warnings fail none of them."""
    places = [i for i, item in enumerate(items) if item.path.is_relative_to(HERE)]
    ordered = sorted((items[i] for i in places), key=_engine)
    for place, item in zip(places, ordered, strict=True):
        # vLLM, Ray and transformers warn of much that is not ours to mend
        item.add_marker(pytest.mark.filterwarnings("default"))
        items[place] = item


def _engine(item: pytest.Item) -> int:
    names = getattr(item, "fixturenames", ())
    return next((i for i, name in enumerate(ENGINES) if name in names), -1)


# Programs


@pytest.fixture(scope="session", autouse=True)
def _futures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Any, Future[Any]]]:
    """Run `prepare` of each file whose tests need it, one after another, from the first test on."""
    items: list[Any] = request.session.items
    modules = [item.module for item in items if "prepared" in item.fixturenames]
    programs = Programs()
    with ThreadPoolExecutor(1) as thread:
        yield {
            module: thread.submit(module.prepare, programs, tmp_path_factory.mktemp("programs"))
            for module in dict.fromkeys(modules)
        }
        thread.shutdown(wait=False, cancel_futures=True)
        programs.kill()


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest, _futures: Mapping[Any, Future[Any]]) -> Any:
    """Return what the file's `prepare(programs, folder)` returned, when its programs have ended."""
    return _futures[request.module].result()


# Engines in this process


class SharedEngine:
    """The one engine that is open; another one replaces it when other options are needed."""

    def __init__(self) -> None:
        self._key: object = None
        self._engine: VllmEngine | None = None
        self._open = AsyncExitStack()

    async def get(self, options: Vllm, models: Mapping[str, Model]) -> VllmEngine:
        """Return an engine with these options and models."""
        key = (options, tuple(models.items()))
        if self._engine is None or key != self._key:
            await self.close()
            self._engine = await self._open.enter_async_context(options.open(models))
            self._key = key
        return self._engine

    async def close(self) -> None:
        """End the open engine."""
        self._engine = None
        await self._open.aclose()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine() -> AsyncIterator[SharedEngine]:
    """Yield the holder of the one open engine."""
    shared = SharedEngine()
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="session")
async def vllm_engine(shared_engine: SharedEngine) -> VllmEngine:
    """Return an engine with the embedded model; its pool is "main". A test leaves it idle.

    Its chat template has tools; a prompt without any is what the model's own makes of it.
    """
    options = Vllm(FLOAT, kv_cache_gib=1, max_num_seqs=64, threads=1)
    model = Model("smollm2", max_context_tokens=CONTEXT_TOKENS, chat_template=TOOL_TEMPLATE)
    return await shared_engine.get(options, {"main": model})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of about a million parameters with the embedded model's tokenizer, and
    no chat template.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder
