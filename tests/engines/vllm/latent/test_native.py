"""What checkpoints that loop by themselves say of their loop, what a plan may add, and what is
refused before an engine starts.
"""

from __future__ import annotations

from typing import Any

import pytest
from tiny_loops import huginn_config, llama_config, ouro_config

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.plan.looped import Latent, latent_of, usual_names


def latent(config: dict[str, Any], **wishes: Any) -> Latent | None:
    return latent_of(usual_names(config), Model("x", **wishes), "main")


def test_ouro_loops_its_whole_stack() -> None:
    """Twenty-four layers four times, as the 1.4B model has them."""
    found = latent(ouro_config(num_hidden_layers=24))
    assert found is not None
    assert (str(found.schedule), found.depth, found.max_depth, found.n_visits) == (
        "(0-23)*r",
        4,
        4,
        96,
    )
    assert found.architecture == "LeadlineOuroForCausalLM"


def test_huginn_loops_its_core() -> None:
    """Prelude 2, core 4, coda 2, 32 times: the paper's 132 layers."""
    found = latent(
        huginn_config(
            n_layers_in_prelude=2,
            n_layers_in_recurrent_block=4,
            n_layers_in_coda=2,
            n_layers=8,
            mean_recurrence=32,
        )
    )
    assert found is not None
    assert (str(found.schedule), found.depth, found.n_visits) == ("0-1 (2-5)*r 6-7", 32, 132)


def test_a_smaller_largest_depth_is_the_default_too() -> None:
    """KV memory follows the largest depth, and the published ones are large."""
    found = latent(huginn_config(mean_recurrence=32), max_depth=8, exit="kl<5e-4", residual=0.1)
    assert found is not None
    assert (found.depth, found.max_depth, found.exit, found.residual) == (8, 8, "kl<5e-4", 0.1)
    assert found.overrides()["latent"]["exit"] == "kl<5e-4"


@pytest.mark.parametrize(
    ("config", "wishes", "reason"),
    [
        (ouro_config(), {"layers": "0 1"}, "loops by itself"),
        (ouro_config(), {"damped": True, "residual": 0.5}, "drop one"),
        (ouro_config(latent={"exit": "state"}), {}, "cannot be read"),
        (ouro_config(latent={"residual": 1.5}), {}, "below 1"),
        (ouro_config(), {"max_depth": 1, "exit": "state<1"}, "nothing to exit from"),
        (llama_config(), {"exit": "state<1"}, "no think block"),
        (llama_config(), {"residual": 0.5}, "no think block"),
        (llama_config(), {"layers": "0-3", "exit": "state<1"}, "no block to repeat"),
        (llama_config(), {"layers": "0-3", "residual": 0.5}, "no block to repeat"),
    ],
)
def test_what_means_nothing_is_refused(
    config: dict[str, Any], wishes: dict[str, Any], reason: str
) -> None:
    """No key without effect."""
    with pytest.raises(PlanError, match=reason):
        latent(config, **wishes)
