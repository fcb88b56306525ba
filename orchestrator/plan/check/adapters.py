"""LoRA adapters: what one must be, and which model pools share an engine because of them.

The one rule: an adapter that cannot be applied to its model is refused before anything starts, as
far as the files are on this machine. Only headers are read, without torch. Not covered: what the
engine lacks for an adapter, which it says when it opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
_MAX_HEADER_BYTES = 100 << 20  # of safetensors, as its own readers have it
# modules whose input, or else whose output, is the hidden state
_FROM_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_TO_HIDDEN = ("o_proj", "down_proj")


def shared_engines(
    models: Mapping[str, Model], options: Mapping[str, object]
) -> list[dict[str, Model]]:
    """Return the model pools that each engine serves, in the order of their first pools.

    Pools of one model share an engine if one of them is an adapter and their `options` are equal.
    """
    engines: list[dict[str, Model]] = []
    for name, model in models.items():
        base = replace(model, lora="")
        for engine in engines:
            first, other = next(iter(engine.items()))
            with_adapter = model.lora or any(one.lora for one in engine.values())
            if with_adapter and replace(other, lora="") == base and options[first] == options[name]:
                engine[name] = model
                break
        else:
            engines.append({name: model})
    return engines


def resolve_adapter(lora: str) -> str:
    """Return an adapter's folder, or its name on the hub unchanged; PlanError if it is neither."""
    path = Path(lora).expanduser()
    if not path.exists() and (path.is_absolute() or lora.startswith((".", "~"))):
        raise PlanError(f"adapter folder {lora!r} does not exist")
    if not path.exists():
        return lora
    for needed in (("adapter_config.json",), _WEIGHTS):
        if not any((path / name).is_file() for name in needed):
            raise PlanError(
                f"{lora!r} is no adapter: it has no {needed[0]}; name the folder that PEFT's "
                "save_pretrained wrote"
            )
    return str(path)


def require_adapter(lora: str, config: Mapping[str, Any] | None) -> None:
    """Raise PlanError unless a folder is an adapter of the model with this config.json.

    What is not on this machine is not checked.
    """
    folder = Path(resolve_adapter(lora))
    if not folder.is_dir():
        return
    try:
        own = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except ValueError as error:
        raise PlanError(f"{lora!r}: its adapter_config.json is not JSON ({error})") from error
    kind = own.get("peft_type") if isinstance(own, dict) else own
    if kind != "LORA":
        raise PlanError(f"{lora!r} is no LoRA adapter: its peft_type is {kind!r}, not 'LORA'")
    weights = folder / _WEIGHTS[0]
    if config is None or not weights.is_file():
        return
    for fault in _misfits(_shapes(weights), config):
        base = own.get("base_model_name_or_path")
        raise PlanError(
            f"{lora!r} is an adapter of another model{f', {base!r}' if base else ''}: {fault}; set "
            "path to the model that it was trained on"
        )


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each tensor of a safetensors file, from its header."""
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        try:
            if n_bytes > _MAX_HEADER_BYTES:
                raise ValueError(f"its header has {n_bytes:,} bytes")
            header = json.loads(file.read(n_bytes))
            return {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlanError(f"{path} is no safetensors file: {error}") from error


def _misfits(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what shows that tensors are not for the model with this config.json."""
    hidden, n_layers = config.get("hidden_size"), config.get("num_hidden_layers")
    for name, shape in shapes.items():
        module, _, half = name.removesuffix(".weight").rpartition(".lora_")
        kind = module.rpartition(".")[2]
        size = None
        if half == "A" and kind in _FROM_HIDDEN:
            size = shape[-1]
        elif half == "B" and kind in _TO_HIDDEN:
            size = shape[0]
        if size is not None and isinstance(hidden, int) and size != hidden:
            yield f"its {kind} is made for {size} values, and this model has {hidden}"
        layer = module.partition(".layers.")[2].partition(".")[0]
        if layer.isdecimal() and isinstance(n_layers, int) and int(layer) >= n_layers:
            yield f"it has a layer {layer}, and this model has layers 0 to {n_layers - 1}"
