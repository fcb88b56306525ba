"""Prompts and suffixes as token ids, and the number of tokens that may follow them.

Does not import vllm: it only needs a tokenizer.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import PlanFault
from orchestrator.core.values import LikelyToken, Prompt
from orchestrator.kit.answers.tags import closes_thinking, is_tag, opening_tag
from orchestrator.kit.prompts import chat_messages

if TYPE_CHECKING:
    from orchestrator.engines.vllm.start.tools import ToolUse

_MAX_PROMPTS = 1024  # kept as token ids: the n traces of a problem start close together
_TAG_TOKENS = 32  # at the end of a prompt, where a template opens or closes the thinking


@dataclass(frozen=True, slots=True)
class EngineInput:
    """vLLM's input for a request; `params` are for generation or for a pooling task."""

    prompt_ids: list[int]
    suffix_ids: tuple[int, ...]
    params: Any
    salt: str  # requests with different salts share no cached prefix; "": no salt
    ends_by_rule: bool = False  # at its token limit, a checkpoint
    rendered: Any = None  # vLLM's own input for a prompt with media; its ids are not all of them
    tools: ToolUse | None = None


class Refused(Exception):
    """This request cannot be served; the text is for the user."""


def template_settings(extra: Mapping[str, object]) -> str:
    """Return the arguments of the chat template that a plan sets, as JSON; "" for none.

    Its tools are the argument `tools`.
    """
    given = extra.get("chat_template_kwargs", {})
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise PlanFault(
            "sampling.extra", f"sampling.extra.chat_template_kwargs = {given!r}: it must be a table"
        )
    if "reasoning_effort" in extra:
        given = {**given, "reasoning_effort": extra["reasoning_effort"]}
    if extra.get("tools"):
        given = {**given, "tools": extra["tools"]}
    # tools in their own order of fields, as models have seen them in training
    return json.dumps(dict(sorted(given.items()))) if given else ""


class Prompts:
    """One pool's tokenizer: converts prompts to token ids, with its chat template if it has one.

    Refused for a prompt that it cannot convert.
    """

    def __init__(self, tokenizer: Any, pool: str, template: str = "") -> None:
        """Use this tokenizer, and this chat template instead of its own; refusals name `pool`."""
        self._tokenizer = tokenizer
        self._name = pool
        self._template = str(template or getattr(tokenizer, "chat_template", None) or "")
        self._own = {"chat_template": template} if template else {}
        # whether special tokens are part of the text: vLLM leaves them out, and tags with them
        self.keeps_special = any(map(is_tag, _special_tokens(tokenizer)))
        self.ids = functools.lru_cache(_MAX_PROMPTS)(self._render)
        self._ends = functools.lru_cache(_MAX_PROMPTS)(self._thinking)
        self.suffix_ids = functools.lru_cache(_MAX_PROMPTS)(self._encode_suffix)
        self.token_id = functools.lru_cache(_MAX_PROMPTS)(self._token_id)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def likely(self, id: int, logprob: float) -> LikelyToken:
        """Return a token with its text; with its bytes where they are a part of a character."""
        text = self.text_of((id,))
        piece = (
            self._tokenizer.convert_ids_to_tokens(id) if "\N{REPLACEMENT CHARACTER}" in text else ""
        )
        return LikelyToken(text, logprob, piece_bytes(str(piece)) if piece else None)

    def printed(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens as the engine returns it."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not self.keeps_special))

    def thinking(self, prompt_ids: Sequence[int]) -> tuple[str, bool]:
        """Return the tag with which a prompt opens the thinking, and whether it closes it."""
        return self._ends(tuple(prompt_ids[-_TAG_TOKENS:]))

    def _thinking(self, end_ids: tuple[int, ...]) -> tuple[str, bool]:
        end = self.text_of(end_ids)
        return opening_tag(end), closes_thinking(end)

    def valued_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of the text or conversation that a pooling model scores.

        A conversation is formatted by the chat template, without a generation prompt; a text is
        not.
        """
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        if not self._template:
            raise Refused(
                f"the model of pool {self._name!r} has no chat template: it values plain texts, "
                "not conversations"
            )
        text = self._tokenizer.apply_chat_template(
            _chat(prompt),
            tokenize=False,
            add_generation_prompt=False,
            **self._own,
        )
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _token_id(self, text: str) -> int:
        ids = self._encode_suffix(text)
        if len(ids) != 1:
            raise Refused(
                f"{text!r} is {len(ids)} tokens to the model of pool {self._name!r}; values are "
                "read at a single one"
            )
        return ids[0]

    def _render(self, prompt: Prompt, settings: str = "") -> tuple[int, ...]:
        """Return the tokens of a prompt; `settings` are arguments of the chat template, as JSON."""
        arguments: dict[str, Any] = json.loads(settings) if settings else {}
        self._require_used(arguments)
        if self._template:
            text = self._tokenizer.apply_chat_template(
                _chat(prompt),
                tokenize=False,
                add_generation_prompt=True,
                **self._own,
                **arguments,
            )
            # the template has already added the special tokens
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        raise Refused(
            f"the model of pool {self._name!r} has no chat template: it takes plain prompts, not "
            "messages. Put the instruction into sampling.template instead of sampling.system, give "
            "examples as text (few_shot.template), or choose an instruction-tuned model"
        )

    def template_arguments(self, settings: str) -> dict[str, Any]:
        """Return the arguments of the chat template; Refused for one that it does not use."""
        arguments: dict[str, Any] = json.loads(settings) if settings else {}
        self._require_used(arguments)
        return {**self._own, **arguments}

    def _require_used(self, arguments: Iterable[str]) -> None:
        for name in arguments:
            if name not in self._template:
                key = "tools" if name == "tools" else "chat_template_kwargs"
                raise Refused(
                    f"the chat template of pool {self._name!r} does not use {name!r}, which "
                    f"sampling.extra.{key} sets"
                )

    def _encode_suffix(self, suffix: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(suffix, add_special_tokens=False))


def piece_bytes(piece: str) -> tuple[int, ...] | None:
    """Return the bytes of a piece of a vocabulary, as `<0xE2>` or in the alphabet of GPT-2.

    None for a piece in neither.
    """
    if match := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return (int(match[1], 16),)
    alphabet = _byte_alphabet()
    known = all(character in alphabet for character in piece)
    return tuple(alphabet[character] for character in piece) if known else None


@functools.cache
def _byte_alphabet() -> Mapping[str, int]:
    """Return the byte of each character of byte-level vocabularies.

    Bytes that are printable in Latin-1 stand for themselves, the others for characters from 256 on
    (GPT-2's `bytes_to_unicode`).
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def _special_tokens(tokenizer: Any) -> Iterable[str]:
    yield from getattr(tokenizer, "all_special_tokens", ())
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    yield from (token.content for token in added.values() if getattr(token, "special", False))


def _chat(prompt: Prompt) -> list[dict[str, Any]]:
    """Return messages as chat templates expect them: arguments of calls are objects."""
    messages = chat_messages(prompt)
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = _arguments(call["function"]["arguments"])
        message["content"] = message["content"] or ""
    return messages


def _arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def fitting_tokens(n_prompt: int, max_new: int, context_tokens: int, pool: str) -> int:
    """Return the number of new tokens that fit, at most `max_new`.

    Refused if none fit after the prompt.
    """
    if max_new < 1:
        raise Refused(f"max_new_tokens is {max_new}; it must be at least 1")
    if n_prompt >= context_tokens:
        raise Refused(
            f"the prompt has {n_prompt} tokens and the context of model pool {pool!r} holds "
            f"{context_tokens}, answer included: shorten the prompt, raise max_context_tokens if "
            "the model allows it, or choose another model"
        )
    return min(max_new, context_tokens - n_prompt)


def checkpoint_tokens(n_prompt: int, n_new: int, block_tokens: int) -> int:
    """Return the number of new tokens, in (n_new / 2, n_new], at which a continuation is cheapest.

    The cache keeps whole blocks, without the token that was sampled last. If all earlier tokens
    fill their blocks, only that token is computed again. `n_new` itself if there is no such number,
    or no cache (`block_tokens` 0).
    """
    n_early = (n_prompt + n_new - 1) % block_tokens if block_tokens else 0
    return n_new - n_early if 2 * n_early < n_new else n_new
