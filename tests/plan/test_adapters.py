"""LoRA adapters in plans: which pools share an engine, and what is refused before one starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.plan.check import check_plan, shared_engines
from orchestrator.plan.execution import Execution

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 16}


def model(folder: Path, **config: Any) -> str:
    folder.mkdir()
    text = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES})
    (folder / "config.json").write_text(json.dumps({**json.loads(text), **config}))
    return str(folder)


def adapter(folder: Path, shapes: dict[str, list[int]], **config: Any) -> str:
    """Write an adapter whose weights are a header alone, which is all that is read."""
    folder.mkdir()
    own = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "org/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(own))
    named = {
        f"base_model.model.model.layers.{name}.weight": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [0, 0],
        }
        for name, shape in shapes.items()
    }
    header = json.dumps(named).encode()
    data = len(header).to_bytes(8, "little") + header
    (folder / "adapter_model.safetensors").write_bytes(data)
    return str(folder)


def check(models: dict[str, Model], engine: str = "vllm") -> None:
    check_plan(Plan(models=models), Execution(engine=engine))


FITTING = {
    "1.self_attn.q_proj.lora_A": [4, 8],
    "1.self_attn.o_proj.lora_B": [8, 4],
    "0.mlp.down_proj.lora_A": [4, 32],
}


def test_an_adapter_that_fits_its_model_is_accepted_where_it_can_be_loaded(tmp_path: Path) -> None:
    """A dry run loads none, so any will do; a server has its adapters under names of its own."""
    base = model(tmp_path / "base")
    models = {"main": Model(base), "a": Model(base, lora=adapter(tmp_path / "a", FITTING))}
    check(models)
    check({"main": Model("hub/name", lora="hub/adapter")})
    check({"main": Model(base, lora="hub/adapter")}, "fake")
    with pytest.raises(PlanError, match=r"loads no adapters; start the server .*models.a.path"):
        check(models, "openai")


@pytest.mark.parametrize(
    ("shapes", "config", "message"),
    [
        ({"0.self_attn.q_proj.lora_A": [4, 9]}, {}, "'org/base': its q_proj is made for 9 values"),
        ({"0.mlp.down_proj.lora_B": [9, 4]}, {}, "its down_proj is made for 9 values, and .* 8"),
        (
            {"2.mlp.up_proj.lora_A": [4, 8]},
            {},
            "it has a layer 2, and this model has layers 0 to 1",
        ),
        (FITTING, {"peft_type": "IA3"}, "its peft_type is 'IA3', not 'LORA'"),
    ],
)
def test_an_adapter_of_another_model_or_kind_is_refused(
    tmp_path: Path, shapes: dict[str, list[int]], config: dict[str, Any], message: str
) -> None:
    base = model(tmp_path / "base")
    lora = adapter(tmp_path / "a", shapes, **config)
    with pytest.raises(PlanError, match=rf"models\.a\.lora.*{message}"):
        check({"main": Model(base), "a": Model(base, lora=lora)})


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    base, empty = model(tmp_path / "base"), tmp_path / "empty"
    empty.mkdir()
    whole = Path(adapter(tmp_path / "a", FITTING))
    for lora, message in (
        (str(empty), "has no adapter_config.json"),
        (str(tmp_path / "none"), "does not exist"),
    ):
        with pytest.raises(PlanError, match=message):
            check({"main": Model(base, lora=lora)})
    (whole / "adapter_model.safetensors").write_bytes(b"\xff" * 9)
    with pytest.raises(PlanError, match="is no safetensors file: its header has"):
        check({"main": Model(base, lora=str(whole))})
    (whole / "adapter_model.safetensors").unlink()
    with pytest.raises(PlanError, match=r"has no adapter_model\.safetensors"):
        check({"main": Model(base, lora=str(whole))})


def test_adapters_of_layer_schedules_and_looped_models_are_refused(tmp_path: Path) -> None:
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "a", FITTING)
    for changed, message in (
        (Model(base, lora=lora, layers="0 (1)*r", max_depth=2), "layers, max_depth is set"),
        (Model("sounder", lora="hub/adapter"), "'sounder' loops"),
    ):
        with pytest.raises(PlanError, match=message):
            check({"main": changed})


def test_pools_of_one_model_share_an_engine_only_because_of_an_adapter() -> None:
    """And only with equal options; two pools without any are two engines, as they were."""
    models = {
        "a": Model("x", lora="a"),
        "judge": Model("y"),
        "main": Model("x"),
        "twin": Model("y"),
        "b": Model("x", lora="b"),
        "long": Model("x", lora="c", max_context_tokens=9),
    }
    plain = dict.fromkeys(models, 0)
    assert [[*engine] for engine in shared_engines(models, plain)] == [
        ["a", "main", "b"],
        ["judge"],
        ["twin"],
        ["long"],
    ]
    assert [*shared_engines(models, plain | {"b": 1})[0]] == ["a", "main"]
