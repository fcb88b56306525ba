"""The tags with which models mark their thinking: the one table of them. Linear time on any text.

`tags(text)` finds them, `opening_tag` and `closes_thinking` look at the end of a prompt. The one
rule: a format that a model family uses is described here and nowhere else. Not covered: what
thinking is in a text with these tags (`thinking`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

OPEN, CLOSE = "<think>", "</think>"  # the tags of most models, and of texts that we put together


class Kind(Enum):
    """What a tag does."""

    OPEN = auto()  # thinking begins
    CLOSE = auto()  # thinking ends
    END = auto()  # some part of a message ends: thinking, if that is what was open
    REPLY = auto()  # the reply begins
    FRAME = auto()  # belongs to the format of messages, never to a reply


# Tags of one form: Qwen3, DeepSeek, GLM, Granite 4 and most others (<think>), Seed (<seed:think>),
# MiniMax M3 (<mm:think>), K2 Horizon (<ifm|think_fast>), Hunyuan (<think:6124c78e>), LongCat
# (<longcat_think>), EXAONE (<thought>), Mistral ([THINK]), Kimi-VL (◁think▷); the other names are
# those that prompts ask for. All tags here are those of vllm/reasoning and vllm/parser in vLLM 0.32
# and of the models' chat templates.
_ALIKE = (
    r"<(/?)((?:seed:|mm:|ifm\||longcat_|ant_?)?think(?:ing|_faster|_fast)?"
    r"|thoughts?|reasoning|reflection|scratchpad)(:[\w-]{1,32})?>"
    r"|\[(/?)think\]|◁(/?)think▷"
)
_LITERAL: dict[str, tuple[Kind, str]] = {
    "<|start_thinking|>": (Kind.OPEN, "cohere"),
    "<|end_thinking|>": (Kind.CLOSE, "cohere"),
    "<|start_response|>": (Kind.REPLY, "cohere"),
    "<|end_response|>": (Kind.FRAME, "cohere"),
    "<|start_text|>": (Kind.REPLY, "cohere"),
    "<|end_text|>": (Kind.FRAME, "cohere"),
    "<|channel>thought": (Kind.OPEN, "gemma"),
    "<channel|>": (Kind.CLOSE, "gemma"),
    "<|begin_of_thought|>": (Kind.OPEN, "sky"),  # Sky-T1, OpenThinker
    "<|end_of_thought|>": (Kind.CLOSE, "sky"),
    "<|begin_of_solution|>": (Kind.REPLY, "sky"),
    "<|end_of_solution|>": (Kind.FRAME, "sky"),
    "<start_working_out>": (Kind.OPEN, "unsloth"),
    "<end_working_out>": (Kind.CLOSE, "unsloth"),
    "<|inner_prefix|>": (Kind.OPEN, "apertus"),
    "<|inner_suffix|>": (Kind.CLOSE, "apertus"),
    "<|thinking|>": (Kind.OPEN, "bars"),
    "<|/thinking|>": (Kind.CLOSE, "bars"),
    "<|content_thinking|>": (Kind.OPEN, "inkling"),
    "<|message_model|>": (Kind.FRAME, "inkling"),
    "<|content_text|>": (Kind.REPLY, "inkling"),
    "<|end_message|>": (Kind.END, "inkling"),
    "<|plamo:begin_think:plamo|>": (Kind.OPEN, "plamo"),
    "<|plamo:end_think:plamo|>": (Kind.CLOSE, "plamo"),
    "<|open|>think<|sep|>": (Kind.OPEN, "kimi-k3"),
    "<|close|>think<|sep|>": (Kind.CLOSE, "kimi-k3"),
    "<|open|>response<|sep|>": (Kind.REPLY, "kimi-k3"),
    "<|close|>response<|sep|>": (Kind.FRAME, "kimi-k3"),
    "<|close|>message<|sep|>": (Kind.FRAME, "kimi-k3"),
    "<|end|>": (Kind.END, "harmony"),
    "<|call|>": (Kind.END, "harmony"),
    "<|return|>": (Kind.FRAME, "harmony"),
    "<|start|>assistant": (Kind.END, "harmony"),
    "<|think|>": (Kind.OPEN, "harmony"),  # Solar Open, which ends messages like gpt-oss
    "<|begin|>assistant": (Kind.END, "harmony"),
    "<|content|>": (Kind.REPLY, "harmony"),
    "<response>": (Kind.FRAME, "ernie"),
    "</response>": (Kind.FRAME, "ernie"),
}
# gpt-oss: the channel "final" is the reply, "commentary" to nobody a preamble of it
_CHANNEL = (
    r"<\|channel\|>\s?(analysis|commentary|final)([^<\n]{0,80})"
    r"(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
)
_BRACKET = re.compile(r"<(?=[|/A-Za-z])|\[(?=/?[tT][hH])|◁")  # how every tag begins
_PHRASE = re.compile(r"\s{0,8}(?:Here|analysis)")
_TAG = re.compile(
    f"{_ALIKE}|{_CHANNEL}|{'|'.join(map(re.escape, _LITERAL))}",
    re.IGNORECASE,
)
_MAX_TAG = 200  # characters
# Granite 3.2, and gpt-oss where its special tokens were left out: an opening at the very beginning
_PHRASES = (
    (
        "granite",
        re.compile(r"\s{0,8}Here(?: is|'s) my thought process:"),
        re.compile(r"Here(?: is|'s) my response:"),
    ),
    ("bare harmony", re.compile(r"\s{0,8}analysis(?=[A-Z])"), re.compile(r"assistantfinal")),
)
_CLOSING = {
    "cohere": "<|END_THINKING|>",
    "gemma": "<channel|>",
    "sky": "<|end_of_thought|>",
    "unsloth": "<end_working_out>",
    "apertus": "<|inner_suffix|>",
    "bars": "<|/thinking|>",
    "inkling": "<|end_message|>",
    "plamo": "<|plamo:end_think:plamo|>",
    "kimi-k3": "<|close|>think<|sep|>",
    "harmony": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "granite": "Here is my response:",
    "bare harmony": "assistantfinal",
}
_SOLAR = ("<|think|>", "<|end|><|begin|>assistant<|content|>")
_PARTS = ("<|channel|>", "<|channel>", "<|open|>", "<|close|>")  # tokens that a tag consists of


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag in a text. One of a family closes what one of the same family has opened."""

    start: int
    end: int
    kind: Kind
    family: str


def opening_tag(prompt: str) -> str:
    """Return the tag with which a prompt leaves thinking open at its end, or ""."""
    tag = _last_tag(prompt)
    return tag[1] if tag and tag[0] is Kind.OPEN else ""


def closes_thinking(prompt: str) -> bool:
    """Tell whether a prompt ends with a closed thinking, which asks the model not to think."""
    tag = _last_tag(prompt)
    return tag is not None and tag[0] is Kind.CLOSE


def _last_tag(prompt: str) -> tuple[Kind, str] | None:
    """Return the tag at the very end of a prompt."""
    tail = prompt.rstrip()[-_MAX_TAG:]
    tag = next((tag for tag in _bracketed(tail) if tag.end == len(tail)), None)
    return None if tag is None else (tag.kind, tail[tag.start :])


def is_tag(text: str) -> bool:
    """Tell whether a text, such as a special token, is a tag of thinking or a part of one."""
    tag = next(_bracketed(text), None)
    if tag is not None and tag.kind in (Kind.OPEN, Kind.CLOSE):
        return tag.end - tag.start == len(text)
    return text in _PARTS


def may_have_tags(text: str) -> bool:
    """Tell in a fraction of the time of `tags` that a text has none, as most texts do."""
    may_open = "<" in text or "[" in text or "◁" in text  # a tenth of the pattern's time
    return (may_open and _BRACKET.search(text) is not None) or _PHRASE.match(text) is not None


def tags(text: str) -> Iterator[Tag]:
    """Yield the tags of a text in order."""
    phrases = list(_phrases(text))
    if not phrases:
        return _bracketed(text)
    return iter(sorted([*phrases, *_bracketed(text)], key=lambda tag: tag.start))


def _bracketed(text: str) -> Iterator[Tag]:
    for bracket in _BRACKET.finditer(text):
        match = _TAG.match(text, bracket.start())
        if match is None:
            continue
        kind, family = _LITERAL.get(match[0].lower(), (None, ""))
        if kind is None and match[6]:
            kind, family = _channel(match[6].lower(), match[7])
        elif kind is None:
            kind = Kind.CLOSE if match[1] or match[4] or match[5] else Kind.OPEN
            # a model may close <thinking> by </think>
            family = match[0][0] + (match[2] or "think").lower().replace("thinking", "think")
        yield Tag(match.start(), match.end(), kind, family)


def _channel(name: str, recipient: str) -> tuple[Kind, str]:
    is_reply = name == "final" or (name == "commentary" and "to=" not in recipient)
    return (Kind.REPLY if is_reply else Kind.OPEN), "harmony"


def _phrases(text: str) -> Iterator[Tag]:
    for family, opening, closing in _PHRASES:
        if match := opening.match(text):
            yield Tag(match.start(), match.end(), Kind.OPEN, family)
            if end := closing.search(text, match.end()):
                yield Tag(end.start(), end.end(), Kind.CLOSE, family)


def closing_tag(text: str, opened: Tag) -> str:
    """Return the tag that closes the thinking that a tag of this text has opened."""
    tag = text[opened.start : opened.end]
    if tag == _SOLAR[0]:
        return _SOLAR[1]
    return _CLOSING.get(opened.family) or f"{tag[0]}/{tag[1:]}"
