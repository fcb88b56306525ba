"""Prompts and suffixes as token ids, and how many tokens may follow them.

Imports no vllm: a tokenizer is all it takes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.values import Message, Prompt

_KEPT_PROMPTS = 1024  # as token ids: the n traces of a problem start close together


@dataclass(frozen=True, slots=True)
class Job:
    """What vLLM is given for a request.

    `params` are its parameters for generating, or for a pooling task.
    """

    prompt_ids: list[int]
    suffix_ids: tuple[int, ...]
    params: Any
    salt: str  # requests of different salts share no prefix in the cache; "": vLLM is given none
    ends_by_rule: bool = False  # at its limit, which is its checkpoint


class Refused(Exception):
    """This request cannot be served; the text is for the user."""


class Prompts:
    """What one pool's tokenizer makes of prompts, through its chat template where it has one.

    Prompts it cannot take: Refused.
    """

    def __init__(self, tokenizer: Any, pool: str) -> None:
        """Use this tokenizer; `pool` is named in refusals."""
        self._tokenizer = tokenizer
        self._name = pool
        self.ids = functools.lru_cache(_KEPT_PROMPTS)(self._render)
        self.suffix_ids = functools.lru_cache(_KEPT_PROMPTS)(self._encode_suffix)
        self.token_id = functools.lru_cache(_KEPT_PROMPTS)(self._token_id)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def valued_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of what is to be valued: a conversation in the chat template, as it
        stands; a text as it is.
        """
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        if not getattr(self._tokenizer, "chat_template", None):
            raise Refused(
                f"the model of pool {self._name!r} has no chat template: it values plain texts, not conversations"
            )
        text = self._tokenizer.apply_chat_template(
            _chat(prompt), tokenize=False, add_generation_prompt=False
        )
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _token_id(self, text: str) -> int:
        ids = self._encode_suffix(text)
        if len(ids) != 1:
            raise Refused(
                f"{text!r} is {len(ids)} tokens to the model of pool {self._name!r}; values are read at a single one"
            )
        return ids[0]

    def _render(self, prompt: Prompt) -> tuple[int, ...]:
        if getattr(self._tokenizer, "chat_template", None):
            messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
            text = self._tokenizer.apply_chat_template(
                _chat(messages), tokenize=False, add_generation_prompt=True
            )
            # the template has written them
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        raise Refused(
            f"the model of pool {self._name!r} has no chat template: it takes plain prompts, not messages. Put the instruction "
            "into sampling.template instead of sampling.system, or choose an instruction-tuned model"
        )

    def _encode_suffix(self, suffix: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(suffix, add_special_tokens=False))


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def fitting_tokens(n_prompt: int, wanted: int, context_tokens: int, pool: str) -> int:
    """Return how many new tokens there is room for, at most `wanted`; refuses a prompt that leaves
    none.
    """
    if wanted < 1:
        raise Refused(f"max_new_tokens is {wanted}; it must be at least 1")
    if n_prompt >= context_tokens:
        raise Refused(
            f"the prompt has {n_prompt} tokens and the context of model pool {pool!r} holds {context_tokens}, answer included: "
            "shorten the prompt, raise max_context_tokens if the model allows it, or choose another model"
        )
    return min(wanted, context_tokens - n_prompt)


def checkpoint_tokens(n_prompt: int, wanted: int, block_tokens: int) -> int:
    """Return after how many new tokens, at most `wanted` and more than half of it, a trace is
    cheapest to go on from.

    The cache keeps whole blocks, and it lacks the token that was drawn last: where all before that
    one fill their blocks, nothing else is computed again. `wanted` itself where there is no such
    place, or no cache (`block_tokens` 0).
    """
    early = (n_prompt + wanted - 1) % block_tokens if block_tokens else 0
    return wanted - early if 2 * early < wanted else wanted
