"""How configuration and plan determine a model's schedule, and which settings are refused.

First ordinary models under a schedule, then checkpoints that loop by themselves (`plan.looped`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny_loops import huginn_config, llama_config, ouro_config

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import parse_schedule
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.depth import kv_bytes, require_room
from orchestrator.plan.looped import (
    Draft,
    Latent,
    cache_salt,
    latent_of,
    require_depth,
    unlooped,
    usual_names,
)

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
OWN = {"layers": "0-9 (10-19)*r 20-29", "depth": 4, "max_depth": 8}
THINK = "0-9 (10-19)*r 20-29"


def resolved(model: Model | None = None, **config: Any) -> Latent | None:
    return latent_of({**LLAMA, **config}, model or Model("m"), "main")


def scheduled(model: Model | None = None, **config: Any) -> Latent:
    latent = resolved(model, **config)
    assert latent is not None
    return latent


def resolved_loop(config: dict[str, Any], **fields: Any) -> Latent | None:
    return latent_of(usual_names(config), Model("x", **fields), "main")


def test_a_model_without_a_schedule_is_vllms_own() -> None:
    """Without a schedule the stock class must run, for every model family."""
    assert resolved() is None
    assert resolved(Model("m", max_depth=1)) is None
    assert resolved(architectures=["OlmoeForCausalLM"], quantization_config={"bits": 4}) is None


def test_the_folders_schedule_counts_and_the_plan_may_raise_the_depth() -> None:
    """`latent` in config.json defines the original model.

    max_depth only affects memory, so a plan may set it.
    """
    latent = scheduled(latent=OWN)
    assert (str(latent.schedule), latent.depth, latent.max_depth, latent.damped) == (
        THINK,
        4,
        8,
        False,
    )
    assert scheduled(Model("m", max_depth=16), latent=OWN).max_depth == 16
    assert scheduled(latent={"layers": THINK, "depth": 3}).max_depth == 3
    assert scheduled(latent={**OWN, "damped": True}).damped


def test_the_plans_schedule_replaces_the_folders_and_its_depths() -> None:
    """The folder's depths belong to its schedule; another schedule starts at depth 1."""
    latent = scheduled(Model("m", layers="0-4 (5-9)*r 10-29", max_depth=2), latent=OWN)
    assert (str(latent.schedule), latent.depth, latent.max_depth) == ("0-4 (5-9)*r 10-29", 1, 2)


def test_overrides_say_it_again() -> None:
    """The overrides passed to vLLM must mean the same when the worker reads them."""
    latent = scheduled(Model("m", layers=THINK, max_depth=4, damped=True))
    over = latent.overrides()
    assert over["architectures"] == ["LeadlineLlamaForCausalLM"]
    assert parse_schedule(over["latent"]["layers"]) == latent.schedule
    assert latent_of({**LLAMA, "latent": over["latent"]}, Model("m"), "main") == latent
    assert scheduled(Model("m", layers=THINK, max_depth=4, kv_iterations=2)).kv_writes == "first"
    warm = scheduled(Model("m", layers=THINK, max_depth=4, warm_start=0.5))
    assert latent_of({**LLAMA, **warm.overrides(), **LLAMA}, Model("m"), "main") == warm
    shared = scheduled(Model("m", layers=THINK, max_depth=4, kv_iterations=2, kv_writes="last"))
    assert latent_of({**LLAMA, **shared.overrides(), **LLAMA}, Model("m"), "main") == shared


def test_visits_and_layers_run() -> None:
    """There are 10 + 4 x 10 + 10 KV caches of one layer; a token at depth 2 passes 40 layers.

    Two slots for four iterations make it 10 + 2 x 10 + 10.
    """
    latent = scheduled(Model("m", layers=THINK, max_depth=4))
    assert latent.n_visits == 60
    assert scheduled(Model("m", layers=THINK, max_depth=4, kv_iterations=2)).n_visits == 40
    assert latent.schedule.n_layers_run(2) == 40


def test_an_ordinary_model_drafts_with_fewer_layers() -> None:
    """It runs in our class as in vLLM's own: each layer once, a KV cache for each. A draft of a
    loop costs head, tail and its iterations.
    """
    latent = unlooped(LLAMA, "draft_layers", "leave it out")
    assert (str(latent.schedule), latent.max_depth, latent.n_visits) == ("0-29", 1, 30)
    assert Draft(0, 4, 12, "0-4 25-29").n_layers(latent.schedule) == 10
    assert Draft(2, 4, 12).n_layers(parse_schedule(THINK)) == 40
    drafting = replace(latent, draft=Draft(0, 4, 12, "0-4 25-29"))
    assert drafting.overrides()["latent"]["draft"]["layers"] == "0-4 25-29"
    with pytest.raises(PlanError, match=r"draft_layers: .*not OlmoeForCausalLM: leave it out, or"):
        unlooped({**LLAMA, "architectures": ["OlmoeForCausalLM"]}, "draft_layers", "leave it out")


@pytest.mark.parametrize(
    ("model", "config", "said"),
    [
        (Model("m", layers="0-30"), {}, "names layer 30; the model has 30 layers, 0 to 29"),
        (Model("m", layers="0-9 (10-"), {}, "cannot read"),
        (Model("m", max_depth=4), {}, "no think block"),
        (Model("m", damped=True), {}, "no think block"),
        (Model("m", layers="0-29", max_depth=4), {}, "no block to repeat"),
        (Model("m", layers="0-29", damped=True), {}, "no block to repeat"),
        (Model("m", max_depth=2), {"latent": OWN}, "at least the model's own depth, 4"),
        (Model("m"), {"latent": {**OWN, "depth": 0}}, "at least the model's own depth, 0"),
        (Model("m"), {"latent": {**OWN, "depth": 9}}, "max_depth = 8"),
        (Model("m"), {"latent": {"depth": 9}}, "names no layers"),
        (Model("m"), {"latent": {**OWN, "deep": 1}}, "latent.deep is unknown"),
        (Model("m"), {"latent": {**OWN, "depth": "4"}}, "must be of type int"),
        (Model("m"), {"latent": "0-29"}, "must be an object"),
        (Model("m", kv_iterations=2), {}, "no think block"),
        (Model("m", layers="0-29", kv_iterations=2), {}, "no block to repeat"),
        (Model("m", kv_iterations=8), {"latent": OWN}, r"below max_depth \(8\)"),
        (Model("m", kv_iterations=-1), {"latent": OWN}, "at least 1"),
        (Model("m", kv_writes="first"), {"latent": OWN}, "set kv_iterations, or leave it out"),
        (Model("m", kv_iterations=2, kv_writes="all"), {"latent": OWN}, "one of first, last"),
        (Model("m", kv_iterations=2, exit="state<0.1"), {"latent": OWN}, "drop one"),
        (Model("m", kv_iterations=2, cascade="diff 0.1 at 1"), {"latent": OWN}, "drop one"),
        (Model("m", warm_start=0.5), {}, "no think block"),
        (Model("m", layers="0-29", warm_start=0.5), {}, "no block to repeat"),
        (Model("m", layers=THINK, warm_start=0.5), {}, "no iteration to save: raise max_depth"),
        (Model("m", warm_start=1.5), {"latent": OWN}, "at most 1"),
        (Model("m", warm_start=1.0), {"latent": OWN}, r"take less than 1 \(1 is for Huginn\)"),
        (Model("m", warm_start=0.5, cascade="diff 0.1 at 1"), {"latent": OWN}, "drop one"),
        (
            Model("m", layers=THINK),
            {"architectures": ["OlmoeForCausalLM"]},
            "cover LlamaForCausalLM, .*not OlmoeForCausalLM: drop",
        ),
        (Model("m", layers=THINK), {"architectures": None}, "not none"),
        (
            Model("m", layers=THINK),
            {"quantization_config": {"quant_method": "awq"}},
            "quantised.*unquantised weights",
        ),
        (
            Model("m", layers=THINK),
            {"dual_chunk_attention_config": {"chunk_size": 8}},
            "dual chunk",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(
    model: Model, config: dict[str, Any], said: str
) -> None:
    """Otherwise each would fail after a minute's engine start, or silently run something else."""
    with pytest.raises(PlanError, match=said):
        resolved(model, **config)


@pytest.mark.parametrize("depth", [0, -1, 9])
def test_depths_beyond_what_is_served_are_refused(depth: int) -> None:
    with pytest.raises(
        PlanError, match=rf"requests latent depth {depth}; the model serves 1 to 8 \(raise"
    ):
        require_depth(depth, scheduled(latent=OWN), "sampling.depth")


def test_a_model_without_loops_has_depth_one() -> None:
    """Depth 1 is any unchanged model; more needs a think block.

    The message names the setting to define one.
    """
    for latent in (None, scheduled(Model("m", layers="0-9 11-29"))):
        require_depth(1, latent, "the request")
        with pytest.raises(PlanError, match="no think block"):
            require_depth(2, latent, "the request")


def test_room_for_one_request_at_the_largest_depth() -> None:
    """One byte less than needed is refused, and the error names both remedies.

    60 visits x 1024 tokens x 2 (keys, values) x 3 heads x 64 x 4 bytes = 94,371,840.
    """
    latent = scheduled(Model("m", layers=THINK, max_depth=4))
    needed = 60 * 1024 * 2 * 3 * 64 * 4
    assert kv_bytes(latent, LLAMA, 1000, 4) == needed  # whole blocks of 128 tokens
    require_room(latent, LLAMA, 1000, 4, needed, "main")
    with pytest.raises(
        PlanError,
        match=r"0\.09 GiB of KV cache \(that of 60 layers.*"
        r"smaller max_context_tokens or max_depth, or a larger kv",
    ):
        require_room(latent, LLAMA, 1000, 4, needed - 1, "main")
    shallow = replace(latent, max_depth=1)
    require_room(shallow, LLAMA, 1000, 4, needed // 2, "main")


def test_salts_differ_with_the_depth() -> None:
    """Blocks of one depth must never serve another.

    The layers after the think block saw other states.
    """
    assert len({cache_salt(depth) for depth in range(1, 65)}) == 64


# Checkpoints that loop by themselves


def test_ouro_loops_its_whole_stack() -> None:
    """The 1.4B model runs twenty-four layers four times."""
    latent = resolved_loop(ouro_config(num_hidden_layers=24))
    assert latent is not None
    assert (str(latent.schedule), latent.depth, latent.max_depth, latent.n_visits) == (
        "(0-23)*r",
        4,
        4,
        96,
    )
    assert latent.architecture == "LeadlineOuroForCausalLM"


def test_huginn_loops_its_core() -> None:
    """Prelude 2, core 4 (32 times) and coda 2 are the paper's 132 layers."""
    latent = resolved_loop(
        huginn_config(
            n_layers_in_prelude=2,
            n_layers_in_recurrent_block=4,
            n_layers_in_coda=2,
            n_layers=8,
            mean_recurrence=32,
        )
    )
    assert latent is not None
    assert (str(latent.schedule), latent.depth, latent.n_visits) == ("0-1 (2-5)*r 6-7", 32, 132)


def test_a_smaller_largest_depth_is_the_default_too() -> None:
    """KV memory grows with the largest depth, and the published ones are large."""
    latent = resolved_loop(
        huginn_config(mean_recurrence=32), max_depth=8, exit="kl<5e-4", residual=0.1
    )
    assert latent is not None
    assert (latent.depth, latent.max_depth, latent.exit, latent.residual) == (8, 8, "kl<5e-4", 0.1)
    assert latent.overrides()["latent"]["exit"] == "kl<5e-4"


def test_huginn_may_start_from_the_last_state_alone() -> None:
    """Its iterations all read the token; of Ouro's only the first one does."""
    latent = resolved_loop(huginn_config(), max_depth=4, warm_start=1.0)
    assert latent is not None
    assert latent.warm_start == 1
    with pytest.raises(PlanError, match="take less than 1"):
        resolved_loop(ouro_config(), warm_start=1.0)


@pytest.mark.parametrize(
    ("config", "wishes", "reason"),
    [
        (ouro_config(), {"layers": "0 1"}, "loops by itself"),
        (ouro_config(), {"damped": True, "residual": 0.5}, "drop one"),
        (ouro_config(latent={"exit": "state"}), {}, "cannot be read"),
        (ouro_config(latent={"residual": 1.5}), {}, "below 1"),
        (ouro_config(), {"max_depth": 1, "exit": "state<1"}, "nothing to exit from"),
        (ouro_config(), {"max_depth": 3, "exit": "agreement>=3"}, "no token would stop early"),
        (ouro_config(), {"cascade": "diff 0.1"}, "cannot be read"),
        (ouro_config(), {"cascade": "diff 0.1 at 4"}, "an early iteration comes before the last"),
        (ouro_config(), {"cascade": "diff 0.1 at 2", "exit": "state<1"}, "drop one"),
        (ouro_config(), {"cascade": "diff 0.1 at 2", "damped": True}, "but damped"),
        (llama_config(), {"cascade": "diff 0.1 at 1"}, "no think block"),
        (llama_config(), {"exit": "state<1"}, "no think block"),
        (llama_config(), {"residual": 0.5}, "no think block"),
        (llama_config(), {"layers": "0-3", "exit": "state<1"}, "no block to repeat"),
        (llama_config(), {"layers": "0-3", "residual": 0.5}, "no block to repeat"),
    ],
)
def test_what_means_nothing_is_refused(
    config: dict[str, Any], wishes: dict[str, Any], reason: str
) -> None:
    """A key without effect is refused."""
    with pytest.raises(PlanError, match=reason):
        resolved_loop(config, **wishes)
