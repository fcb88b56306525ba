"""Arguments of vLLM's engine that a plan passes as they are, checked by vLLM's own parser.

The one rule: an argument takes effect or is refused with the reason. `ELSEWHERE` has those that an
option, a key of the plan or Leadline itself decides; whatever else `vllm serve` of this version
takes is passed. Imports vllm only when called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn

from orchestrator.core.errors import PlanError
from orchestrator.plan import registry

_ONE_NODE = "an engine is one copy: use replicas, or nodes_per_replica, of the engine 'ray'"
_LOGGING = "Leadline decides what is printed (LEADLINE_VLLM_LOG)"
_INTERNAL = "vLLM sets it itself"
_MODEL = "set models.NAME.{}"
_OPTION = "set the engine's option {}"

# What is decided elsewhere, with what to do instead.
ELSEWHERE: Mapping[str, str] = {
    "model": _MODEL.format("path"),
    "model_weights": _MODEL.format("path"),
    "revision": _MODEL.format("revision"),
    "max_model_len": _MODEL.format("max_context_tokens"),
    "runner": _MODEL.format("task"),
    "convert": _MODEL.format("task"),
    "pooler_config": _MODEL.format("task"),
    "reasoning_parser": _MODEL.format("reasoning_parser"),
    "enable_lora": _MODEL.format("lora"),
    "dtype": _OPTION.format("dtype"),
    "seed": _OPTION.format("seed"),
    "tensor_parallel_size": _OPTION.format("tensor_parallel"),
    "gpu_memory_utilization": _OPTION.format("gpu_memory_utilization"),
    "kv_cache_memory_bytes": _OPTION.format("kv_cache_gib"),
    "enforce_eager": _OPTION.format("enforce_eager"),
    "enable_prefix_caching": _OPTION.format("prefix_caching"),
    "max_num_seqs": _OPTION.format("max_num_seqs"),
    "logprobs_mode": _OPTION.format("processed_logprobs"),
    "skip_tokenizer_init": "texts are read and written, so the tokenizer is needed",
    "served_model_name": "there is no server; pools are named in [models]",
    "nnodes": _ONE_NODE,
    "node_rank": _ONE_NODE,
    "master_addr": _ONE_NODE,
    "master_port": _ONE_NODE,
    "data_parallel_size": _ONE_NODE,
    "data_parallel_rank": _ONE_NODE,
    "data_parallel_start_rank": _ONE_NODE,
    "data_parallel_size_local": _ONE_NODE,
    "data_parallel_address": _ONE_NODE,
    "data_parallel_rpc_port": _ONE_NODE,
    "data_parallel_backend": _ONE_NODE,
    "data_parallel_hybrid_lb": _ONE_NODE,
    "data_parallel_external_lb": _ONE_NODE,
    "data_parallel_multi_port_external_lb": _ONE_NODE,
    "use_tqdm_on_load": _LOGGING,
    "disable_log_stats": _LOGGING,
    "enable_log_requests": _LOGGING,
    "aggregate_engine_logging": _LOGGING,
    "log_level": _LOGGING,
    "log_config_file": _LOGGING,
    "tokens_only": _INTERNAL,
    "enable_mm_processor_stats": _INTERNAL,
    "mamba_config": _INTERNAL,
    "_api_process_count": _INTERNAL,
    "_api_process_rank": _INTERNAL,
}
_SPECULATIVE = ("speculative_config", "spec_method", "spec_model", "spec_tokens")
_ON_CPU: Mapping[str, str] = {
    "block_size": "on a CPU it is 32, the smallest that its kernel takes",
    "enable_chunked_prefill": "vLLM 0.32's CPU build fails with it when requests carry seeds",
    "max_loras": "vLLM 0.32's CPU build needs one more slot than there are adapters",
    "max_cpu_loras": "vLLM 0.32's CPU build needs one more slot than there are adapters",
} | dict.fromkeys(
    _SPECULATIVE,
    "on a CPU, vLLM 0.32 samples wrongly with it above temperature 0 (vllm#55005)",
)
_IN_LOOPS: Mapping[str, str] = {
    "hf_overrides": "the layer schedule is in them",
    "worker_extension_cls": "it counts the iterations of the layer schedule",
    "worker_cls": "the layer schedule runs in vLLM's own",
    "model_class_overrides": "the layer schedule is a model class",
    "scheduler_cls": "steps may end between the iterations of the layer schedule",
    "quantization": "layer schedules, and drafts of a model's own, are for unquantised weights",
} | dict.fromkeys(
    _SPECULATIVE,
    "a draft does not know the depth that its tokens are checked at; set the option draft_depth, "
    "or draft_layers for a model that does not loop",
)


def parsed(args: Mapping[str, object], pool: str) -> dict[str, Any]:
    """Return the arguments of one pool as vLLM's engine takes them.

    PlanError for a name that vLLM does not have (with the near match), a value that it does not
    take, and what is decided elsewhere.
    """
    if not args:
        return {}
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    known = {field.name for field in fields(AsyncEngineArgs)}
    for name in args:
        if reason := ELSEWHERE.get(name):
            raise PlanError(f"args of pool {pool!r}: {name} is not passed to vLLM: {reason}")
        if name not in known:
            raise PlanError(
                f"args of pool {pool!r}: vLLM's engine has no argument {name!r}"
                f"{registry.near(name, known - ELSEWHERE.keys())}; `vllm serve --help=all` lists "
                "all of them"
            )
    parser = AsyncEngineArgs.add_cli_args(_parser(FlexibleArgumentParser))
    return {name: _value(parser, name, value, pool) for name, value in args.items()}


def require_possible(args: Mapping[str, object], pool: str, *, on_cpu: bool, looped: bool) -> None:
    """Raise PlanError for an argument that this device, or a layer schedule, does not allow."""
    for name in args:
        reason = _ON_CPU.get(name) if on_cpu else None
        if reason := reason or (_IN_LOOPS.get(name) if looped else None):
            raise PlanError(f"args of pool {pool!r}: {name} cannot be set: {reason}")


class _Refused(Exception):
    """What vLLM's parser says of a value."""


def _parser(base: type[Any]) -> Any:
    class Parser(base):  # type: ignore[misc]  # vLLM's class is known only now
        def error(self, message: str) -> NoReturn:
            raise _Refused(message.partition(": ")[2] or message)

    return Parser(add_help=False, allow_abbrev=False)


def _value(parser: Any, name: str, value: object, pool: str) -> Any:
    try:
        return vars(parser.parse_args(_words(name, value)))[name]
    except (_Refused, ValueError) as error:
        raise PlanError(
            f"args of pool {pool!r}: vLLM does not take {name} = {value!r}: {error}"
        ) from error


def _words(name: str, value: object) -> list[str]:
    """Return an argument as words of a command line."""
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if value is False:
        return [f"--no-{name.replace('_', '-')}"]
    if isinstance(value, Mapping):
        return [f"{option}={json.dumps(value)}"]
    if isinstance(value, (list, tuple)):
        return [option, *map(str, value)]
    if isinstance(value, (str, int, float)):
        return [f"{option}={value}"]
    raise ValueError("it must be a boolean, number, text, list or table")
