"""Loads a `Decoder` by a model's name, and the layer schedule with which the model ships.

Packages that are not installed are reported first. `orchestrator.studies.layers.decoder` implements
the decoder.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import Schedule, parse_schedule, require_layers
from orchestrator.plan.models import resolve_model

if TYPE_CHECKING:
    from orchestrator.studies.layers.decoder import Decoder

_NEEDED = ("torch", "transformers")


def load_decoder(name: str, revision: str = "") -> Decoder:
    """Return the decoder of a model, named as in a plan.

    It runs in float32 on the CPU, or on a GPU in the dtype of its weights. Raises PlanError, with
    the remedy, when the model cannot be loaded.
    """
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise PlanError(
            f"this needs {' and '.join(missing)}: run `make env`, "
            "or `pip install 'leadline[cpu]'` (with a GPU: cuda)"
        )
    path = resolve_model(name)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from orchestrator.studies.layers.decoder import FAMILIES, Decoder

    disable_progress_bar()
    source = {"revision": revision} if revision else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        family = AutoConfig.from_pretrained(path, **source).model_type
        if family not in FAMILIES:
            raise PlanError(
                f"model {name!r} is of the family {family!r}, which cannot be rearranged here; "
                f"covered: {', '.join(FAMILIES)}"
            )
        dtype = torch.float32 if device == "cpu" else "auto"
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **source).to(device)
        return Decoder(model, AutoTokenizer.from_pretrained(path, **source))
    # raised by transformers for missing or unreadable files
    except (OSError, ValueError) as error:
        raise PlanError(
            f"model {name!r} cannot be loaded: {' '.join(str(error).split())}"
        ) from error


def shipped_order(name: str, n_layers: int) -> tuple[int, ...]:
    """Return the order of layers with which a model ships.

    The order is all layers once, unless `latent` in its config.json gives another one.
    """
    latent = _latent(Path(resolve_model(name)) / "config.json")
    if not latent.get("layers"):
        return tuple(range(n_layers))
    schedule: Schedule = parse_schedule(str(latent["layers"]))
    require_layers(schedule, n_layers)
    return schedule.order(int(str(latent.get("depth") or 1)))


def _latent(config: Path) -> Mapping[str, object]:
    if not config.is_file():  # a model name on the hub
        return {}
    latent = json.loads(config.read_text(encoding="utf-8")).get("latent")
    return latent if isinstance(latent, dict) else {}
