"""Depths and schedules of a plan against models that lie here: refused when the plan is read, not
after an engine has started.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec, Sampling
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution

THINK = "0 (1-2)*r 3"
VLLM = Execution(engine=PluginSpec("vllm"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the configuration of a Llama of four layers."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "num_attention_heads": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def check(folder: Path | str, depth: int = 0, engine: Execution = VLLM, **fields: Any) -> None:
    check_plan(Plan({"main": Model(str(folder), **fields)}, sampling=Sampling(depth=depth)), engine)


def test_what_the_model_has_passes(folder: Path) -> None:
    """A schedule of its layers, and depths up to the largest."""
    check(folder)
    check(folder, depth=1)
    check(folder, layers=THINK, max_depth=4, depth=4)


@pytest.mark.parametrize(
    ("key", "fields", "said"),
    [
        ("models.main", {"layers": "0-4"}, "the model has 4 layers"),
        ("models.main", {"max_depth": 2}, "no think block"),
        ("sampling.depth", {"depth": 2}, "no think block"),
        ("sampling.depth", {"depth": 5, "layers": THINK, "max_depth": 4}, "serves 1 to 4"),
    ],
)
def test_what_it_lacks_is_refused_at_its_key(
    folder: Path, key: str, fields: dict[str, Any], said: str
) -> None:
    """The loader points at the line of a plan file by this key."""
    with pytest.raises(PlanFault, match=said) as caught:
        check(folder, **fields)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": THINK},
        {"max_depth": 2},
        {"damped": True},
        {"kv_iterations": 2},
        {"depth": 2},
        {"warm_start": 0.5},
    ],
)
def test_an_engine_that_cannot_is_named(folder: Path, fields: dict[str, Any]) -> None:
    """An option without effect would be believed: a remote server runs what it runs."""
    remote = Execution(engine=PluginSpec("openai", {"base_url": "http://127.0.0.1:1/v1"}))
    with pytest.raises(PlanFault, match="'openai' runs models as they ship"):
        check(folder, engine=remote, **fields)


def test_a_model_elsewhere_is_left_to_its_engine() -> None:
    """Of a hub name nothing is known here, and nothing is fetched to find out."""
    check("some/model", layers="0-99 (100-120)*r", max_depth=9, depth=9)


def pools(folder: Path) -> dict[str, Model]:
    """The same weights twice, with memory for one depth and for eight."""
    return {
        name: Model(str(folder), layers=THINK, max_depth=depth)
        for name, depth in (("shallow", 1), ("deep", 8))
    }


def test_a_depth_that_another_pool_of_the_same_model_serves_passes(folder: Path) -> None:
    """A fleet sends it there: a pool per depth is how memory is saved."""
    deepen = PluginSpec("deepen", {"depths": [1, 8]})
    check_plan(Plan(pools(folder), deepen, sampling=Sampling(depth=8)), VLLM)
    with pytest.raises(PlanFault, match="requests latent depth 9"):
        check_plan(Plan(pools(folder), PluginSpec("deepen", {"depths": [1, 9]})), VLLM)
    with pytest.raises(PlanFault, match="serves 1 to 1"):
        check_plan(
            Plan(
                {**pools(folder), "deep": Model(str(folder), layers="0 (1)*r 2-3", max_depth=8)},
                deepen,
            ),
            VLLM,
        )


def test_depths_are_asked_of_the_pools_that_a_strategy_names(folder: Path) -> None:
    """Not of the plan's first model when that is not the one in use; of a judge's too."""
    models = {"main": Model(str(folder)), "loop": Model(str(folder), layers=THINK, max_depth=4)}
    check_plan(
        Plan(models, PluginSpec("consistency", {"model": "loop"}), sampling=Sampling(depth=4)), VLLM
    )
    check_plan(Plan(models, PluginSpec("scrutinize", {"judge": "loop", "judge_depth": 4})), VLLM)
    with pytest.raises(PlanFault, match="no think block") as caught:
        check_plan(
            Plan(models, PluginSpec("scrutinize", {"model": "loop"}), sampling=Sampling(depth=4)),
            VLLM,
        )
    assert caught.value.key == "sampling.depth"
    with pytest.raises(PlanFault, match=r"strategy\.judge_depth requests"):
        check_plan(
            Plan(models, PluginSpec("scrutinize", {"judge": "loop", "judge_depth": 5})), VLLM
        )


def test_the_fake_engine_has_any_depth_whatever_lies_here(folder: Path) -> None:
    """It loads no model; else a dry run would depend on what is in the cache."""
    check(folder, depth=7, engine=Execution(engine=PluginSpec("fake")))


LOOP = {"layers": THINK, "max_depth": 8}


@pytest.mark.parametrize("engine", [PluginSpec("vllm"), PluginSpec("ray")])
def test_noise_needs_a_loop(folder: Path, engine: PluginSpec) -> None:
    """In the replicas of a fleet alike; of a model that is not here nothing is known."""
    noisy = Sampling(latent_noise=0.2)
    for model in (Model(str(folder), **LOOP), Model("some/model")):
        check_plan(Plan({"main": model}, sampling=noisy), Execution(engine=engine))
    plan = Plan({"main": Model(str(folder))}, sampling=noisy)
    with pytest.raises(PlanFault, match=r"does not loop; leave it out, or set models.main.layers"):
        check_plan(plan, Execution(engine=engine))


@pytest.mark.parametrize(
    "engine", [PluginSpec("openai"), PluginSpec("fake"), PluginSpec("ray", {"backend": "fake"})]
)
def test_other_engines_have_no_states_to_add_noise_to(engine: PluginSpec) -> None:
    """Noise that is left out silently would look like a result."""
    plan = Plan({"main": Model("sounder")}, sampling=Sampling(latent_noise=0.2))
    with pytest.raises(PlanFault, match=r"sampling.latent_noise = 0.2: the engine"):
        check_plan(plan, Execution(engine=engine))


def drafting(folder: Path, options: dict[str, Any], sampling: Sampling, **fields: Any) -> None:
    """Check a plan whose pool drafts at depth 4, or as `options` say, in a fleet and without."""
    options = {"draft_depth": 4, **options}
    plan = Plan({"main": Model(str(folder), **{**LOOP, **fields})}, sampling=sampling)
    for engine in (PluginSpec("vllm", options), PluginSpec("ray", {"options": options})):
        check_plan(plan, Execution(engine=engine))


def test_a_loop_may_draft_for_itself(folder: Path) -> None:
    """With an exit by state, too; a request that is no deeper than the draft runs without."""
    drafting(folder, {}, Sampling(top_k=5, repetition_penalty=1.1))
    drafting(folder, {"draft_tokens": 8}, Sampling(depth=2), exit="state<0.1")
    drafting(folder, {}, Sampling(), kv_iterations=2)


@pytest.mark.parametrize(
    ("key", "options", "sampling", "fields", "said"),
    [
        (
            "execution.engine",
            {},
            {},
            {"layers": "", "max_depth": 0},
            "no think block.*set it.*or name",
        ),
        ("execution.engine", {"draft_depth": 8}, {}, {}, "depths up to 8; set a smaller one"),
        ("execution.engine", {}, {}, {"exit": "kl<0.1"}, "take state<"),
        ("execution.engine", {}, {}, {"exit": "agreement>=3"}, "take state<"),
        ("execution.engine", {}, {}, {"kv_iterations": 2, "kv_writes": "last"}, '= "first"'),
        ("execution.engine", {}, {}, {"warm_start": 0.1}, "once it is checked; drop that, or"),
        ("execution.engine", {"tensor_parallel": 2}, {}, {}, "set tensor_parallel = 1"),
        ("execution.engine", {"args": {"logits_processors": ["a:B"]}}, {}, {}, "not define"),
        ("sampling.min_p", {}, {"min_p": 0.1}, {}, "leave out one of them"),
        ("sampling.extra", {}, {"extra": {"logit_bias": {"5": 1.0}}}, {}, "logit_bias: vLLM does"),
    ],
)
def test_what_drafts_cannot_do_is_refused_when_the_plan_is_read(
    folder: Path,
    key: str,
    options: dict[str, Any],
    sampling: dict[str, Any],
    fields: dict[str, Any],
    said: str,
) -> None:
    """Before a minute is spent on an engine, with the remedy; in the replicas of a fleet alike."""
    with pytest.raises(PlanFault, match=said) as caught:
        drafting(folder, options, Sampling(**sampling), **fields)
    assert caught.value.key == key


def leaving_out(folder: Path, options: dict[str, Any], **fields: Any) -> None:
    """Check a plan whose pool drafts with two of its four layers, or as `options` say."""
    options = {"draft_layers": "0 3", **options}
    plan = Plan({"main": Model(str(folder), **fields)}, sampling=Sampling())
    for engine in (PluginSpec("vllm", options), PluginSpec("ray", {"options": options})):
        check_plan(plan, Execution(engine=engine))


def test_a_model_that_does_not_loop_may_draft_with_fewer_layers(folder: Path) -> None:
    """With a schedule of its own, too, and a pool may do without."""
    leaving_out(folder, {})
    leaving_out(folder, {"draft_layers": "0 3"}, layers="0 2 2 3")
    leaving_out(folder, {"draft_layers": "0 2", "draft_tokens": 8}, layers="0 (2)*3 3")
    leaving_out(folder, {"pools": {"main": {"draft_layers": ""}}}, **LOOP)


@pytest.mark.parametrize(
    ("options", "fields", "said"),
    [
        ({"draft_layers": "0-3"}, {}, "of pool 'main': .* leaves out no layer"),
        ({"draft_layers": "3 0"}, {}, "'3 0' is not '0-3' with layers left out"),
        ({"draft_layers": "0 4"}, {}, "'0 4' is not '0-3' with layers left out"),
        ({"draft_layers": "0 (1)*r"}, {}, "is not '0-3' with layers left out"),
        ({"draft_layers": "0 x"}, {}, "of pool 'main': .*cannot read 'x'"),
        ({"draft_layers": "0-2"}, {}, "3 of 4 layers .*leave out a third or more, or leave it out"),
        ({"draft_depth": 2}, {}, "draft_depth = 2 and draft_layers = '0 3' of .*set one of them"),
        ({}, LOOP, "the model loops, and drafts at a smaller depth; set draft_depth"),
        ({"enforce_eager": False}, {}, "runs eagerly; leave enforce_eager out, or"),
        ({"tensor_parallel": 2}, {}, "set tensor_parallel = 1"),
        ({"args": {"logits_processors": ["a:B"]}}, {}, "not define"),
        ({}, {"task": "embed"}, "task = 'embed' generates no text; .* set it to \"\" for this"),
    ],
)
def test_what_drafts_with_fewer_layers_cannot_do_is_refused(
    folder: Path, options: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    """When the plan is read, with the remedy; in the replicas of a fleet alike."""
    with pytest.raises(PlanFault, match=said) as caught:
        leaving_out(folder, options, **fields)
    assert caught.value.key == "execution.engine"


def test_drafts_with_fewer_layers_are_for_models_of_ours(folder: Path) -> None:
    """Other families run in vLLM's own classes, and quantised weights as well."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for change, said in (
        ({"architectures": ["OlmoeForCausalLM"]}, "cover LlamaForCausalLM, .*: leave it out"),
        ({"quantization_config": {"bits": 4}}, "quantised.*: use these, or leave it out"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(PlanFault, match=f"draft_layers = '0 3' of pool 'main': .*{said}"):
            leaving_out(folder, {})
        leaving_out(folder, {"draft_layers": ""})


def test_drafts_with_fewer_layers_are_not_for_adapters(folder: Path) -> None:
    """An adapter is applied in vLLM's own class; the base beside it may draft."""
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    (adapter / "adapter_model.bin").write_bytes(b"")
    models = {"main": Model(str(folder)), "maths": Model(str(folder), lora=str(adapter))}
    for pools, refused in (({}, True), ({"maths": {"draft_layers": ""}}, False)):
        engine = PluginSpec("vllm", {"draft_layers": "0 3", "pools": pools})
        with pytest.raises(PlanFault, match=r"maths\.lora: adapt") if refused else nullcontext():
            check_plan(Plan(models), Execution(engine=engine))


def test_drafts_are_not_for_the_second_runner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a user asks for it; vLLM itself takes the first one for drafts."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(PlanFault, match="unset VLLM_USE_V2_MODEL_RUNNER"):
        drafting(folder, {}, Sampling())


def test_a_server_does_not_draft_for_us(folder: Path) -> None:
    """What a remote server drafts is its own affair."""
    with pytest.raises(PlanFault, match="draft_depth"):
        check(folder, engine=Execution(engine=PluginSpec("openai", {"draft_depth": 4})))
