"""vLLM's tool parsers: that of a pool, what it forces on a reply, and the calls that it finds.

The one rule: a parser is taken from the plan, or from a mark of the chat template that only one
format has; a model without either is given no tools. Imports vllm only when called. Not covered:
tools in the prompt (`prompts`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Model
from orchestrator.core.values import Request, ToolCall, Trace, changed
from orchestrator.engines.vllm.prompts import Refused
from orchestrator.engines.vllm.sampling import KEY, parsed
from orchestrator.engines.vllm.start.host import LOG_LEVEL
from orchestrator.engines.vllm.start.parsers import NO_PARSER
from orchestrator.kit.answers.thinking import parts_of, reading
from orchestrator.plan import registry
from orchestrator.plan.check import tool_fields
from orchestrator.plan.models import known_config, resolve_model

# What only the chat templates of one format say, with the parser of that format; the first counts.
MARKS: Mapping[str, str] = {
    "<args-json-object>": "hermes",  # Qwen2.5, Qwen3
    "<args-dict>": "hermes",  # Hermes 2 Pro and 3
    "<seed:tool_call>": "seed_oss",  # has the next, too
    "<function=example_function_name>": "qwen3_coder",  # Qwen3-Coder, Qwen3.5
    "<|tool_calls_section_begin|>": "kimi_k2",
    "<minimax:tool_call>": "minimax_m2",
    '{"name": function name, "parameters": dictionary of argument name and its value}': (
        "llama3_json"
    ),
}


@dataclass(frozen=True, slots=True)
class ToolParser:
    """A tool parser of vLLM with the tokenizer of a pool."""

    name: str
    parser_class: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What tools are to one setting of sampling.

    `forced` are vLLM's structured outputs that make the reply a call, or None. `parse` returns the
    text beside the calls in a reply, and the calls.
    """

    forced: Any
    keeps_special: bool
    parse: Callable[[str], tuple[str, tuple[ToolCall, ...]]]

    def apply(self, params: Any) -> None:
        """Change vLLM's sampling parameters of a request."""
        if self.forced is not None:
            params.structured_outputs = self.forced
        if self.keeps_special:
            params.skip_special_tokens = params.spaces_between_special_tokens = False


def tool_parser(pool: str, model: Model, model_config: Any) -> ToolParser | None:
    """Return vLLM's tool parser for a pool; None if neither plan nor chat template name one.

    PlanError if the plan names one that vLLM lacks or that cannot serve this model.
    """
    from vllm.tokenizers import cached_tokenizer_from_config

    return _parser_for(pool, model, cached_tokenizer_from_config(model_config))


def require_tools(
    extra: Mapping[str, object], pool: str, model: Model, import_vllm: Callable[[], None]
) -> None:
    """Raise PlanFault unless a pool can be given these tools.

    The tokenizer of a model that is not on this machine is unknown: then the engine refuses the
    requests.
    """
    import_vllm()
    if known_config(model.path) is None or model.task:
        return
    from vllm.tokenizers import cached_get_tokenizer

    tokenizer = cached_get_tokenizer(resolve_model(model.path))
    if "tools" not in _template(model, tokenizer):
        raise PlanFault(
            KEY,
            f"{KEY}.tools: the chat template of {model.path!r} has no tools; set "
            f"models.{pool}.chat_template to one that has, or choose a model that calls tools",
        )
    try:
        tool_use(extra, _parser_for(pool, model, tokenizer), pool)
    except (Refused, PlanError) as error:
        raise PlanFault(KEY, str(error)) from error


def tool_use(extra: Mapping[str, object], parser: ToolParser | None, pool: str) -> ToolUse | None:
    """Return what a plan's tools are to a pool; None where there are none to call.

    Refused if the pool has no parser, or vLLM does not take the tools.
    """
    fields = tool_fields(extra)
    if not fields or fields.get("tool_choice") == "none":
        return None
    if parser is None:
        raise Refused(
            f"{KEY}.tools: vLLM's parser of the calls of pool {pool!r} is not known; set "
            f"models.{pool}.tool_parser"
        )
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.exceptions import VLLMClientError

    try:
        request = ChatCompletionRequest(
            messages=[{"role": "user", "content": ""}],
            model=pool,
            structured_outputs=parsed(extra).get("structured_outputs"),
            **{"tool_choice": "auto", **fields},
        )
        make = parser.parser_class
        # required and named choices become structured outputs
        request = make(parser.tokenizer, request.tools).adjust_request(request)
    except (ValueError, TypeError, VLLMClientError) as error:
        raise Refused(f"{KEY}.tools: vLLM does not take them: {error}") from error

    def parse(text: str) -> tuple[str, tuple[ToolCall, ...]]:
        one = make(parser.tokenizer, request.tools)
        _, content, calls = one.parse(text, request, enable_auto_tools=True)
        return content or "", tuple(ToolCall(c.name, c.arguments or "{}") for c in calls or ())

    return ToolUse(request.structured_outputs, not request.skip_special_tokens, parse)


def with_calls(trace: Trace, request: Request, use: ToolUse | None) -> Trace:
    """Return a trace with the calls that its attempt makes, and its reply without them."""
    if use is None or not trace.text or trace.lost:
        return trace
    reply = reading(request, trace, answers_in_thinking=False)
    try:
        content, calls = use.parse(reply.text)
    except Exception as error:  # noqa: BLE001 - a parser may raise anything on an odd text
        note = f"tool parser: {error!r}; no call was found"
        return changed(trace, note="; ".join(filter(None, (trace.note, note))))
    if not calls:
        return trace
    calls = tuple(
        ToolCall(call.name, call.arguments, _call_id(request, place))
        for place, call in enumerate(calls)
    )
    if reply.n_inherited:  # the text before the calls is in an earlier trace
        return changed(trace, calls=calls)
    return changed(trace, calls=calls, reply_spans=_spans(trace, content.strip()))


def _spans(trace: Trace, content: str) -> tuple[tuple[int, int], ...]:
    """Return where the reply has the text beside its calls; () where it has none."""
    for start, end in parts_of(trace).reply if content else ():
        if (at := trace.text.find(content, start, end)) >= 0:
            return ((at, at + len(content)),)
    return ()


def _call_id(request: Request, place: int) -> str:
    """Return the id of a call: the same in every run, where vLLM's own are random."""
    text = f"{request.problem_id}\0{request.ordinal}\0{place}"
    return f"call_{hashlib.blake2b(text.encode(errors='replace'), digest_size=12).hexdigest()}"


def _parser_for(pool: str, model: Model, tokenizer: Any) -> ToolParser | None:
    from vllm.parser import ParserManager
    from vllm.tool_parsers import ToolParserManager

    if LOG_LEVEL not in os.environ:  # a call that was cut off is no error: there is no call
        logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)
    template = _template(model, tokenizer)
    guesses = (name for mark, name in MARKS.items() if mark in template)
    name = model.tool_parser or next(guesses, NO_PARSER)
    if name == NO_PARSER:
        return None
    key, known = f"models.{pool}.tool_parser", ToolParserManager.list_registered()
    if name not in known:
        raise PlanError(
            f"{key} = {name!r}{registry.near(name, known)}: vLLM has no such parser; it has: "
            f"{', '.join(known)}; {NO_PARSER!r} uses none"
        )
    try:
        parser_class = ParserManager.get_parser(
            tool_parser_name=name, enable_auto_tools=True, tokenizer=tokenizer
        )
    except Exception as error:  # each parser has its own ways to fail
        if model.tool_parser:
            raise PlanError(f"{key} = {name!r} cannot serve {model.path!r}: {error}") from error
        return None
    return ToolParser(name, parser_class, tokenizer)


def _template(model: Model, tokenizer: Any) -> str:
    # in the source of a template, quotes and line ends of its texts may be escaped
    template = model.chat_template or getattr(tokenizer, "chat_template", None) or ""
    return str(template).replace('\\"', '"')
