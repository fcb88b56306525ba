"""The plugin that vLLM loads: light, without effect on other models, and repeatable."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace

import pytest

from orchestrator.engines.vllm.latent.plugin import register, separate_own_tokens
from orchestrator.plan.looped import FAMILIES, targets


def test_vllm_finds_the_plugin() -> None:
    """vLLM loads every entry point of this group in each of its processes."""
    found = [
        point
        for point in entry_points(group="vllm.general_plugins")
        if point.name == "leadline-latent"
    ]
    assert [point.load() for point in found] == [register]


def test_registering_twice_adds_each_of_ours_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM calls the plugin more than once in a process.

    It warns if a name is registered again, and none of its own names may be changed.
    """
    added: list[tuple[str, str]] = []
    registry = SimpleNamespace(
        get_supported_archs=lambda: [*FAMILIES, *(name for name, _ in added)],
        register_model=lambda name, target: added.append((name, target)),
    )
    vllm = ModuleType("vllm")
    vllm.ModelRegistry = registry  # type: ignore[attr-defined]  # the part that the plugin uses
    utils = ModuleType("vllm.v1.core.kv_cache_utils")
    utils.generate_block_hash_extra_keys = lambda *_: (None, 0)  # type: ignore[attr-defined]
    core = ModuleType("vllm.v1.core")
    core.kv_cache_utils = utils  # type: ignore[attr-defined]
    for module in (vllm, ModuleType("vllm.v1"), core, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    register()
    own = utils.generate_block_hash_extra_keys
    register()
    assert utils.generate_block_hash_extra_keys is own
    assert dict(added) == targets()
    assert len(added) == len(FAMILIES)
    assert not set(targets()) & set(FAMILIES)


def test_blocks_of_other_first_states_have_keys_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the last token of the prompt on with noise, from the one behind it with a warm start.

    The prompt has 64 tokens, two blocks. Of a warm start its length counts, not the seed.
    """
    utils = ModuleType("vllm.v1.core.kv_cache_utils")
    utils.generate_block_hash_extra_keys = lambda *_: (("stock",), 0)  # type: ignore[attr-defined]
    core = ModuleType("vllm.v1.core")
    core.kv_cache_utils = utils  # type: ignore[attr-defined]
    for module in (ModuleType("vllm"), ModuleType("vllm.v1"), core, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    separate_own_tokens()

    def keys(**arguments: object) -> list[object]:
        params = SimpleNamespace(extra_args=arguments, seed=7)
        request = SimpleNamespace(sampling_params=params, num_prompt_tokens=64)
        return [
            utils.generate_block_hash_extra_keys(request, end - 32, end, 0)[0]
            for end in (32, 64, 96)
        ]

    stock, noisy, warm = ("stock",), ("latent_noise", (0.2, 7)), ("latent_warm", 64)
    assert keys() == [stock] * 3
    assert keys(latent_noise=0.2) == [stock, (*stock, noisy), (*stock, noisy)]
    assert keys(latent_warm=True) == [stock, stock, (*stock, warm)]
    assert keys(latent_noise=0.2, latent_warm=True)[2] == (*stock, noisy, warm)


def test_neither_the_plugin_nor_the_check_imports_anything_of_weight() -> None:
    """The plugin is loaded in every vLLM process of this environment.

    The check is loaded by every command that reads a plan.
    """
    heavy = "{'vllm', 'torch', 'transformers', 'ray'}"
    code = (
        "import sys, orchestrator.engines.vllm.latent.plugin, orchestrator.plan.looped, "
        f"orchestrator.plan.models; print({heavy} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "set()\n"
