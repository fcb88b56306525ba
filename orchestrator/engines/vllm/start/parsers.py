"""vLLM's reasoning parsers: that of a pool, how it splits a text, and whether it limits thinking.

The one rule: the parser that the plan names is believed, and one that was guessed from the model's
family gives way to tags. Imports vllm only when called. Not covered: texts (`reply.ReplyParser`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.reply import ReplyParser
from orchestrator.plan import registry
from orchestrator.plan.check import THINKING, without_limit
from orchestrator.plan.models import known_config, resolve_model

NO_PARSER = "none"
_HARMONY = "openai_gptoss"
# vLLM's reasoning parsers by families (`model_type`) of which every model with thinking has the
# same format. gpt-oss is missing on purpose: its parser downloads a vocabulary, and tags suffice.
PARSERS: Mapping[str, str] = {
    "deepseek_v3": "deepseek_r1",
    "deepseek_v32": "deepseek_r1",
    "deepseek_v4": "deepseek_v4",
    "ernie4_5_moe": "ernie45",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "glm4_moe": "glm45",
    "hunyuan_v1_moe": "hunyuan_a13b",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax_m2",
    "ministral3": "mistral",
    "mistral3": "mistral",
    "nemotron_h": "nemotron_v3",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3",
    "qwen3_5_moe": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3",
    "seed_oss": "seed_oss",
}


def reply_parser(pool: str, model: Model, model_config: Any) -> ReplyParser | None:
    """Return vLLM's reasoning parser for a pool; None if the plan or its family has none.

    PlanError if the plan names one that vLLM lacks or that cannot serve this model. One that was
    guessed is then left out.
    """
    guess = PARSERS.get(model_config.hf_config.model_type, NO_PARSER)
    name = model.reasoning_parser or guess
    if name == NO_PARSER:
        return None
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import ParserManager
    from vllm.tokenizers import cached_tokenizer_from_config

    key = require_parser(pool, name)
    tokenizer = cached_tokenizer_from_config(model_config)
    request = ChatCompletionRequest(messages=[{"role": "user", "content": ""}], model=model.path)

    def parse(text: str, ids: Sequence[int]) -> tuple[str | None, str | None]:
        thinking, reply, _ = parser_class(tokenizer).parse(
            text, request, model_output_token_ids=list(ids)
        )
        return thinking, reply

    try:
        parser_class: Any = ParserManager.get_parser(
            reasoning_parser_name=name, is_harmony=name == _HARMONY, tokenizer=tokenizer
        )
        parse("", ())  # some load what they need with the first text
    except Exception as error:  # each parser has its own ways to fail
        if model.reasoning_parser:
            raise PlanError(f"{key} = {name!r} cannot serve {model.path!r}: {error}") from error
        return None
    return ReplyParser(name, parse, guessed=not model.reasoning_parser)


def require_parser(pool: str, name: str) -> str:
    """Return the key of a pool's parser. PlanError if vLLM has none of this name."""
    from vllm.reasoning import ReasoningParserManager

    key, known = f"models.{pool}.reasoning_parser", ReasoningParserManager.list_registered()
    if name not in known:
        raise PlanError(
            f"{key} = {name!r}{registry.near(name, known)}: vLLM has no such parser; it has: "
            f"{', '.join(known)}; {NO_PARSER!r} uses none"
        )
    return key


def require_limit(n_tokens: int, pool: str, model: Model, import_vllm: Callable[[], None]) -> None:
    """Raise PlanFault unless vLLM can end the thinking of a pool after so many tokens.

    It forces the closing tag of the parser that the plan names. The tokenizer of a model that is
    not on this machine is unknown: then the engine refuses the requests.
    """
    key, name = f"models.{pool}.reasoning_parser", model.reasoning_parser
    config = known_config(model.path)
    if name in ("", NO_PARSER):
        guess = PARSERS.get(str((config or {}).get("model_type")))
        parser = f"{guess!r}, the parser of its family" if guess else "vLLM's parser of this model"
        raise PlanFault(
            THINKING,
            f"{THINKING} = {n_tokens}: vLLM ends the thinking by the tags of a reasoning parser, "
            f"and pool {pool!r} names none; set {key} to {parser}, or {without_limit(n_tokens)}",
        )
    import_vllm()
    require_parser(pool, name)
    if config is not None and not all(_tags(key, name, model)):
        raise PlanFault(
            THINKING,
            f"{THINKING} = {n_tokens}: vLLM does not know the tags of {key} = {name!r}, and so "
            f"cannot force the closing one; {without_limit(n_tokens)}",
        )


def _tags(key: str, name: str, model: Model) -> tuple[str | None, str | None]:
    """Return the tags of a parser for a model on this machine; PlanError if it cannot serve it."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tokenizers import cached_get_tokenizer

    try:
        tokenizer = cached_get_tokenizer(resolve_model(model.path))
        parser: Any = ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
    except Exception as error:  # each parser has its own ways to fail
        raise PlanError(f"{key} = {name!r} cannot serve {model.path!r}: {error}") from error
    return parser.reasoning_start_str, parser.reasoning_end_str
