"""vLLM's own engine arguments: what is passed, and what is refused with which reason."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.options import Vllm, engine_arguments
from orchestrator.engines.vllm.start.arguments import ELSEWHERE, parsed, require_possible

pytestmark = pytest.mark.engine  # vLLM is imported

pytest.importorskip("vllm")


def test_every_argument_of_vllm_is_passed_or_decided_elsewhere() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    known = {field.name for field in fields(AsyncEngineArgs)}
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    assert set(ELSEWHERE) <= known
    assert known - set(ELSEWHERE) <= {action.dest for action in parser._actions}


def test_what_is_decided_elsewhere_is_documented() -> None:
    page = Path("docs/engines.md").read_text(encoding="utf-8")
    table = page.partition("| not passed |")[2].partition("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", table))
    undocumented = {name for name in ELSEWHERE if not name.startswith("data_parallel_")} - listed
    assert not undocumented


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"quantization": "fp8"}, {"quantization": "fp8"}),
        ({"max_num_batched_tokens": "8k"}, {"max_num_batched_tokens": 8000}),
        ({"async_scheduling": False}, {"async_scheduling": False}),
        ({"cudagraph_capture_sizes": [1, 2, 4]}, {"cudagraph_capture_sizes": [1, 2, 4]}),
        ({"limit_mm_per_prompt": {"image": 2}}, {"limit_mm_per_prompt": {"image": 2}}),
        ({"cpu_offload_gb": 1.5, "max_loras": 2}, {"cpu_offload_gb": 1.5, "max_loras": 2}),
        ({"download_dir": "--model"}, {"download_dir": "--model"}),
        ({}, {}),
    ],
)
def test_a_value_is_passed_with_its_type(
    given: dict[str, object], passed: dict[str, object]
) -> None:
    assert parsed(given, "main") == passed


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"quantisation": "fp8"}, r"'quantisation' \(did you mean 'quantization'\?\)"),
        ({"kv_cache_dtype": "fp9"}, "kv_cache_dtype = 'fp9': invalid choice"),
        ({"max_num_batched_tokens": "many"}, "max_num_batched_tokens = 'many'"),
        ({"trust_remote_code": "yes"}, "trust_remote_code = 'yes'"),
        ({"max_loras": True}, "max_loras = True: expected one argument"),
        ({"compilation_config": {"levle": 3}}, "levle"),
        ({"cudagraph_capture_sizes": ["--model", "x"]}, "cudagraph_capture_sizes"),
        ({"stream_interval": None}, "must be a boolean, number, text"),
        ({"seed": 3}, "set the engine's option seed"),
        ({"data_parallel_size": 2}, "nodes_per_replica, of the engine 'ray'"),
        ({"max_model_len": 4096}, "set models.NAME.max_context_tokens"),
    ],
)
def test_what_vllm_does_not_take_is_refused_by_name(given: dict[str, object], reason: str) -> None:
    with pytest.raises(PlanError, match=f"args of pool 'judge': .*{reason}"):
        parsed(given, "judge")


@pytest.mark.parametrize("name", ["speculative_config", "spec_method", "block_size"])
def test_what_fails_on_a_cpu_is_refused_there(name: str) -> None:
    require_possible({name: 1}, "main", on_cpu=False, looped=False)
    with pytest.raises(PlanError, match=f"{name} cannot be set: .*CPU"):
        require_possible({name: 1}, "main", on_cpu=True, looped=False)


def test_a_layer_schedule_keeps_the_arguments_that_it_needs() -> None:
    options = Vllm(args={"hf_overrides": {"architectures": ["Other"]}})
    with pytest.raises(PlanError, match="hf_overrides cannot be set: the layer schedule"):
        require_possible(options.args, "main", on_cpu=False, looped=True)
    with pytest.raises(PlanError, match=r"quantization cannot be set: .*unquantised"):
        require_possible({"quantization": "fp8"}, "main", on_cpu=False, looped=True)


def test_an_argument_reaches_the_configuration_of_the_engine(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    options = Vllm(args={"max_num_batched_tokens": 4096, "async_scheduling": False})
    arguments, latent = engine_arguments(options, "main", Model(str(tmp_path)), str(tmp_path), 1)
    assert latent is None
    config = AsyncEngineArgs(**arguments).create_engine_config()
    assert config.scheduler_config.max_num_batched_tokens == 4096
    assert config.scheduler_config.async_scheduling is False
