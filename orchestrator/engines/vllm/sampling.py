"""vLLM's sampling parameters: those of a request, and any other that a plan passes as it is.

The one rule: a parameter takes effect or is refused with the reason; `ELSEWHERE` has those that a
key of the plan or Leadline itself decides. Imports vllm only when called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import msgspec

from orchestrator.core.errors import PlanFault
from orchestrator.core.values import TOOL_FIELDS, Sampling, changed
from orchestrator.engines.vllm.prompts import Refused, template_settings
from orchestrator.engines.vllm.reply import ReplyParser
from orchestrator.plan import registry
from orchestrator.plan.keys import refuse_unknown

KEY = "sampling.extra"
_GUIDED = {f"guided_{kind}": kind for kind in ("json", "regex", "choice", "grammar")}
_NOT_OF_SAMPLING = ("chat_template_kwargs", "reasoning_effort", *TOOL_FIELDS)
_PROMPT = "metrics and verifiers ask for what they need"
_TOKENS = "the texts and tokens that come back are Leadline's to choose"
_INTERNAL = "vLLM sets it itself"

# What is decided elsewhere, with what to do instead.
ELSEWHERE: Mapping[str, str] = {
    **{
        name: f"set sampling.{name}"
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
    },
    "n": "set the strategy's n: each attempt is a request of its own",
    "seed": "set the plan's seed, from which each attempt has its own",
    "max_tokens": "set sampling.max_new_tokens",
    "thinking_token_budget": "set sampling.thinking_tokens",
    "logprobs": "set sampling.logprobs and sampling.top_logprobs",
    "prompt_logprobs": _PROMPT,
    "prompt_logprob_token_ids": _PROMPT,
    "prompt_logprob_start": _PROMPT,
    "logprob_token_ids": _PROMPT,
    "flat_logprobs": _PROMPT,
    "detokenize": _TOKENS,
    "skip_special_tokens": _TOKENS,
    "spaces_between_special_tokens": _TOKENS,
    "output_kind": _TOKENS,
    "stream_interval": _TOKENS,
    "output_text_buffer_length": _TOKENS,
    "skip_clone": _TOKENS,
    "routed_experts_prompt_start": _TOKENS,
    "trace_decode_token_ids": _TOKENS,
    "_eos_token_id": _INTERNAL,
    "_all_stop_token_ids": _INTERNAL,
    "_watermarking_skipped": _INTERNAL,
    "_bad_words_token_ids": _INTERNAL,
}


def parsed(extra: Mapping[str, object]) -> dict[str, Any]:
    """Return a plan's other parameters with the types that vLLM wants.

    PlanFault for a name that vLLM does not have (with the near match), a value that it does not
    take, and what is decided elsewhere.
    """
    template_settings(extra)
    if not extra:
        return {}
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError

    known = set(SamplingParams.__struct_fields__)
    extra = _in_one_dialect({n: value for n, value in extra.items() if n not in _NOT_OF_SAMPLING})
    for name in extra:
        if reason := ELSEWHERE.get(name):
            raise PlanFault(KEY, f"{KEY}.{name} is not passed to vLLM: {reason}")
        if name not in known:
            raise PlanFault(
                KEY,
                f"vLLM has no sampling parameter {name!r}"
                f"{registry.near(name, known - ELSEWHERE.keys())}; it has: "
                f"{', '.join(sorted(known - ELSEWHERE.keys()))}",
            )
    try:
        # keys of tables are texts, those of `logit_bias` token ids
        given = {"max_tokens": None, **extra}  # else `min_tokens` is compared with a default
        params = msgspec.convert(given, SamplingParams, strict=False)
    except (ValueError, TypeError, VLLMClientError) as error:
        raise PlanFault(KEY, f"{KEY}: vLLM does not take this: {error}") from error
    typed = {name: getattr(params, name) for name in extra}
    for name, value in typed.items():
        if is_dataclass(value):  # msgspec would pass over its unknown keys
            keys = [field.name for field in fields(value) if not field.name.startswith("_")]
            refuse_unknown(cast(Mapping[str, object], extra[name]), keys, f"{KEY}.{name}")
    return typed


def _in_one_dialect(extra: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters with `response_format` and `guided_*` as `structured_outputs`."""
    rest = dict(extra)
    found = {kind: rest.pop(name) for name, kind in _GUIDED.items() if name in rest}
    wanted = rest.pop("response_format", None)
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        schema = wanted.get("json_schema")
        found["json"] = schema.get("schema") if isinstance(schema, Mapping) else None
    elif isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        found["json_object"] = True
    elif wanted is not None and wanted != {"type": "text"}:
        raise PlanFault(
            KEY,
            f"{KEY}.response_format = {wanted!r}: its type is json_schema, json_object or text",
        )
    if not found:
        return rest
    given = rest.get("structured_outputs", {})
    return {**rest, "structured_outputs": {**cast(Mapping[str, object], given), **found}}


def without_limit(sampling: Sampling, parser: ReplyParser | None, pool: str) -> Sampling:
    """Return the sampling of a pool in which vLLM knows no tags: it limits no thinking.

    Such a pool judges and the like (the plan's check), unless its parser was named: then Refused.
    """
    if parser is not None and not parser.guessed:
        raise Refused(
            f"sampling.thinking_tokens: vLLM does not know the tags of {parser.name!r}, the parser "
            f"of pool {pool!r}, so it cannot end the thinking"
        )
    return changed(sampling, thinking_tokens=0)


def parameters(
    sampling: Sampling,
    stop: tuple[str, ...],
    n_logprobs: int | None,
    step_by_step: bool,
    keeps_special: bool,
) -> Any:
    """Return vLLM's parameters without seed and length.

    They are created once per setting and copied for each request.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=None,  # the request's own
        thinking_token_budget=sampling.thinking_tokens or None,
        stop=list(stop),
        logprobs=n_logprobs,
        flat_logprobs=True,
        skip_special_tokens=not keeps_special,
        spaces_between_special_tokens=not keeps_special,
        # Only a rule has to see every step; otherwise vLLM returns one output, at the end.
        output_kind=RequestOutputKind.DELTA if step_by_step else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # otherwise vLLM makes a deep copy per request
        **parsed(sampling.extra),
    )
