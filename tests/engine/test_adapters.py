"""LoRA adapters on a real vLLM: several in one engine and one batch, as if each had its own engine.

The model and the adapters are random, of a few thousand parameters, and made here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, PluginSpec, Request, Sampling
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.jobs.job import open_job
from orchestrator.jobs.openai_batch import pools_of_rows
from orchestrator.jobs.problems import read_problems
from orchestrator.plan.execution import Execution
from orchestrator.plan.models import resolve_model
from orchestrator.runtime.api import run_job

pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

HIDDEN, INNER, N_LAYERS, RANK = 32, 64, 2, 4
# the modules that adapters change, with the sizes of their input and output
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "mlp.down_proj": (INNER, HIDDEN),
}
PROMPTS = ("Once upon a time", "2 + 2 =", "def f(x):")
GREEDY = Sampling(temperature=0, max_new_tokens=12)
OPTIONS = Vllm("float32", kv_cache_gib=0.25, max_num_seqs=16, threads=1)


def weights_of(seed: int, zero: bool) -> dict[str, Any]:
    import torch

    drawn = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(N_LAYERS):
        for name, (n_in, n_out) in SHAPES.items():
            module = f"model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, n_in, generator=drawn)
            b = torch.randn(n_out, RANK, generator=drawn)
            tensors[f"{module}.lora_B.weight"] = torch.zeros_like(b) if zero else b
    return tensors


def save_adapter(folder: Path, tensors: Mapping[str, Any], rank: int = RANK) -> None:
    """Write an adapter as PEFT does."""
    from safetensors.torch import save_file

    folder.mkdir()
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * RANK, "bias": "none"}
    config["target_modules"] = [name.rpartition(".")[2] for name in SHAPES]
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, adapters of it, and models with these adapters merged."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    tokenizer.chat_template = None
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=2,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape)
    for name in ("base", "merged-a", "merged-b"):
        tokenizer.save_pretrained(folder / name)
    model.save_pretrained(folder / "base")
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, seed, zero in (("a", 1, False), ("b", 2, False), ("zero", 3, True)):
        tensors = weights_of(seed, zero)
        save_adapter(folder / name, tensors)
        if zero:
            continue
        for key in [key for key in tensors if "lora_A" in key]:
            module = key.removesuffix(".lora_A.weight")
            change = tensors[f"{module}.lora_B.weight"] @ tensors[key]
            model.state_dict()[f"{module}.weight"].copy_(plain[f"{module}.weight"] + 2 * change)
        model.save_pretrained(folder / f"merged-{name}")
    return folder


def models_of(folder: Path) -> dict[str, Model]:
    base = str(folder / "base")
    pools = {"main": Model(base)}
    pools |= {name: Model(base, lora=str(folder / name)) for name in ("a", "b", "zero")}
    return pools | {f"merged-{name}": Model(str(folder / f"merged-{name}")) for name in "ab"}


@pytest_asyncio.fixture(loop_scope="session")
async def adapters(shared_engine: Any, folder: Path) -> VllmEngine:
    """Return an engine with all of them: three of vLLM's for six pools."""
    engine: VllmEngine = await shared_engine.get(OPTIONS, models_of(folder))
    assert len(engine._engines) == 3
    return engine


async def texts(engine: VllmEngine, pools: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the greedy texts of each pool, all of them generated in one batch."""
    requests = [
        Request(prompt, model=pool, sampling=GREEDY, problem_id=prompt, ordinal=i)
        for i, pool in enumerate(pools)
        for prompt in PROMPTS
    ]
    traces = await asyncio.gather(*(engine.generate(request) for request in requests))
    assert not any(trace.error for trace in traces), [trace.error for trace in traces]
    found: dict[str, list[str]] = {pool: [] for pool in pools}
    for trace in traces:
        found[trace.model].append(str(trace.token_ids))
    return found


async def test_adapters_in_one_batch_write_what_merged_models_write(adapters: VllmEngine) -> None:
    """The base, too, which vLLM's CPU build would give the adapter of its last slot."""
    mixed = await texts(adapters, ("main", "a", "b", "zero"))
    alone = await texts(adapters, ("main",))
    merged = await texts(adapters, ("merged-a", "merged-b"))
    assert (mixed["a"], mixed["b"]) == (merged["merged-a"], merged["merged-b"])
    assert mixed["main"] == mixed["zero"] == alone["main"]
    for i, prompt in enumerate(PROMPTS):
        assert len({mixed[pool][i] for pool in ("main", "a", "b")}) == 3, prompt


class Opened:
    """Yields the engine that the tests share."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def capabilities(self) -> frozenset[Capability]:
        return Vllm().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
        yield self._engine


async def test_rows_choose_adapters_and_ensembles_have_them_as_members(
    adapters: VllmEngine, folder: Path, tmp_path: Path
) -> None:
    expected = await texts(adapters, ("main", "a", "b"))
    batch = tmp_path / "batch.jsonl"
    url, body = "/v1/completions", {"prompt": PROMPTS[0]}
    rows = [
        {"custom_id": f"row {name}", "url": url, "body": {**body, "model": name}}
        for name in ("other", "a", "b")
    ]
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = models_of(folder)
    members = PluginSpec("ensemble", {"models": ["main", "b"], "n": 8})
    chosen: dict[str, list[tuple[str, str]]] = {}
    for strategy in (PluginSpec("consistency", {"n": 1}), members):
        plan = Plan(models=models, strategy=strategy, sampling=GREEDY, domain="text")
        pools = pools_of_rows(models)
        file = read_problems(batch, default_domain="text", pools=pools)
        execution = Execution(engine=PluginSpec("vllm"))
        out = tmp_path / strategy.name
        with open_job(out, plan, file.problems, file.invalid, file.order) as job:
            async for _ in run_job(job, plan, execution, factory=Opened(adapters)):
                pass
            for id in file.order:
                traces = job.journal.traces(id)
                chosen[f"{strategy.name} {id}"] = [(t.model, str(t.token_ids)) for t in traces]
    first = {pool: (pool, found[0]) for pool, found in expected.items()}
    assert chosen["consistency row other"] == [first["main"]]
    assert chosen["consistency row a"] == [first["a"]]
    assert chosen["consistency row b"] == [first["b"]]
    assert {*chosen["ensemble row a"]} == {first["main"], first["b"]}


async def test_an_adapter_that_vllm_does_not_take_is_refused_before_an_engine_starts(
    folder: Path, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "wide", weights_of(1, zero=False), rank=16)
    save_adapter(tmp_path / "huge", weights_of(1, zero=False), rank=1024)
    base = str(folder / "base")
    narrow = Vllm("float32", kv_cache_gib=0.25, args={"max_lora_rank": 8})
    slots = Vllm("float32", kv_cache_gib=0.25, args={"max_loras": 4})
    unused = Vllm("float32", kv_cache_gib=0.25, args={"max_lora_rank": 8})
    for options, lora, message in (
        (narrow, "wide", "rank 16, and args.max_lora_rank is 8"),
        (OPTIONS, "huge", "rank 1024, and vLLM takes up to"),
        (slots, "wide", "max_loras cannot be set"),
        (unused, "", "max_lora_rank has no effect without an adapter"),
    ):
        model = Model(base, lora=str(tmp_path / lora) if lora else "")
        with pytest.raises(PlanError, match=message):
            async with options.open({"main": model}):
                pass
