r"""Where a text's thinking ends and its reply begins. Linear time on any text.

    parts = split("<think>6*7</think>The answer is 42.")
    parts.reply_text                    # "The answer is 42."
    parts.thinking_text                 # "6*7"

This is the one table of the tags with which models mark their thinking; code elsewhere asks here.
The one rule: nothing that a model only thought is part of its reply. Not covered: what the reply
says (`find`), and servers and parsers that split a reply themselves (`orchestrator.engines`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from orchestrator.core.values import Finish, Span, Spans, Trace

OPEN, CLOSE = "<think>", "</think>"  # the tags of most models, and of texts that we put together


class _Kind(Enum):
    OPEN = auto()  # thinking begins
    CLOSE = auto()  # thinking ends
    END = auto()  # some part of a message ends: thinking, if that is what was open
    REPLY = auto()  # the reply begins
    FRAME = auto()  # belongs to the format of messages, never to a reply


# Tags of one form: Qwen3, DeepSeek, GLM, Granite 4 and most others (<think>), Seed (<seed:think>),
# MiniMax M3 (<mm:think>), K2 Horizon (<ifm|think_fast>), Hunyuan (<think:6124c78e>), EXAONE
# (<thought>), Mistral ([THINK]), Kimi-VL (◁think▷). All tags here are those of vllm/reasoning and
# vllm/parser in vLLM 0.32, and of the models' chat templates.
_ALIKE = (
    r"<(/?)((?:seed:|mm:|ifm\|)?think(?:ing|_faster|_fast)?|thought|reasoning)(:[\w-]{1,32})?>"
    r"|\[(/?)think\]|◁(/?)think▷"
)
_LITERAL: dict[str, tuple[_Kind, str]] = {
    "<|start_thinking|>": (_Kind.OPEN, "cohere"),
    "<|end_thinking|>": (_Kind.CLOSE, "cohere"),
    "<|start_response|>": (_Kind.REPLY, "cohere"),
    "<|end_response|>": (_Kind.FRAME, "cohere"),
    "<|start_text|>": (_Kind.REPLY, "cohere"),
    "<|end_text|>": (_Kind.FRAME, "cohere"),
    "<|channel>thought": (_Kind.OPEN, "gemma"),
    "<channel|>": (_Kind.CLOSE, "gemma"),
    "<|begin_of_thought|>": (_Kind.OPEN, "sky"),  # Sky-T1, OpenThinker
    "<|end_of_thought|>": (_Kind.CLOSE, "sky"),
    "<|begin_of_solution|>": (_Kind.REPLY, "sky"),
    "<|end_of_solution|>": (_Kind.FRAME, "sky"),
    "<|content_thinking|>": (_Kind.OPEN, "inkling"),
    "<|message_model|>": (_Kind.FRAME, "inkling"),
    "<|content_text|>": (_Kind.REPLY, "inkling"),
    "<|end_message|>": (_Kind.END, "inkling"),
    "<|plamo:begin_think:plamo|>": (_Kind.OPEN, "plamo"),
    "<|plamo:end_think:plamo|>": (_Kind.CLOSE, "plamo"),
    "<|open|>think<|sep|>": (_Kind.OPEN, "kimi-k3"),
    "<|close|>think<|sep|>": (_Kind.CLOSE, "kimi-k3"),
    "<|open|>response<|sep|>": (_Kind.REPLY, "kimi-k3"),
    "<|close|>response<|sep|>": (_Kind.FRAME, "kimi-k3"),
    "<|close|>message<|sep|>": (_Kind.FRAME, "kimi-k3"),
    "<|end|>": (_Kind.END, "harmony"),
    "<|call|>": (_Kind.END, "harmony"),
    "<|return|>": (_Kind.FRAME, "harmony"),
    "<|start|>assistant": (_Kind.END, "harmony"),
    "<response>": (_Kind.FRAME, "ernie"),
    "</response>": (_Kind.FRAME, "ernie"),
}
# gpt-oss: the channel "final" is the reply, "commentary" to nobody a preamble of it
_CHANNEL = (
    r"<\|channel\|>\s?(analysis|commentary|final)([^<\n]{0,80})"
    r"(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
)
_BRACKET = re.compile(r"[<\[◁]")
_TAG = re.compile(
    f"{_ALIKE}|{_CHANNEL}|{'|'.join(map(re.escape, _LITERAL))}",
    re.IGNORECASE,
)
_MAX_TAG = 200  # characters
# Granite 3.2, and gpt-oss where its special tokens were left out of the text: at its beginning only
_PHRASES = (
    ("granite", re.compile(r"\s{0,8}Here(?: is|'s) my thought process:")),
    ("bare harmony", re.compile(r"\s{0,8}analysis(?=[A-Z])")),
)
_PHRASES_OF_REPLY = {
    "granite": re.compile(r"Here(?: is|'s) my response:"),
    "bare harmony": re.compile(r"assistantfinal"),
}
_CLOSING = {
    "cohere": "<|END_THINKING|>",
    "gemma": "<channel|>",
    "sky": "<|end_of_thought|>",
    "inkling": "<|end_message|>",
    "plamo": "<|plamo:end_think:plamo|>",
    "kimi-k3": "<|close|>think<|sep|>",
    "harmony": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "granite": "Here is my response:",
    "bare harmony": "assistantfinal",
}
_PARTS = ("<|channel|>", "<|channel>", "<|open|>", "<|close|>")  # tokens that a tag consists of
_QUOTES = frozenset("\"'`“”‘’")


@dataclass(frozen=True, slots=True)
class _Tag:
    start: int
    end: int
    kind: _Kind
    family: str


@dataclass(frozen=True, slots=True)
class Split:
    """A text's thinking and its reply, as spans (start, end) of it. Tags are in neither.

    `closing` is the tag that would end the thinking in which the text ends; "" if it does not end
    in thinking, or that is not known from tags.
    """

    text: str
    thinking: Spans
    reply: Spans
    closing: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the text ends inside its thinking."""
        return bool(self.thinking) and self.thinking[-1][1] == len(self.text)

    @property
    def thinking_text(self) -> str:
        """The thinking, without tags and the space around it."""
        return joined(self.text, self.thinking).strip()

    @property
    def reply_text(self) -> str:
        """The reply, without tags."""
        return joined(self.text, self.reply)


def split(text: str, finished: bool = True) -> Split:
    """Return a text's thinking and reply.

    Without any tag, all of it is the reply. The reply begins after the first thinking that was
    closed; what came before that thinking counts only if nothing follows. Thinking may lack its
    opening tag, which many chat templates put at the end of the prompt. Of a `finished` text, a
    closing tag without an opening one at the very end is a stray. A tag in quotes is a mention, and
    so is an opening one in the middle of a line that nothing closes.
    """
    scan = _Scan(text, finished)
    for tag in _tags(text):
        scan.take(tag)
    return scan.result()


def refined(text: str, thinking: Spans, reply: Spans) -> Split:
    """Return a split that a parser or a server made, without the tags that it left in the reply."""
    for start, end in reply:
        scan = _Scan(text[start:end], finished=True, has_thought=bool(thinking))
        for tag in _tags(scan.text):
            scan.take(tag)
        found = scan.result()
        thinking += shifted(found.thinking, start)
        reply = (*reply[1:], *shifted(found.reply, start))
    return Split(text, tuple(sorted(thinking)), reply)


def parts_of(trace: Trace) -> Split:
    """Return a trace's own thinking and reply, as its engine or its annotation split it.

    A trace that neither has split (a judge's, one of an earlier version) is split here, by tags.
    """
    if trace.reply_spans is None:
        return split(trace.text, trace.finish is Finish.STOP)
    return Split(trace.text, trace.thinking_spans, trace.reply_spans)


def opening_tag(prompt: str) -> str:
    """Return the tag with which a prompt leaves thinking open at its end, or ""."""
    tag = _last_tag(prompt)
    return tag[1] if tag and tag[0] is _Kind.OPEN else ""


def closes_thinking(prompt: str) -> bool:
    """Tell whether a prompt ends with a closed thinking, which asks the model not to think."""
    tag = _last_tag(prompt)
    return tag is not None and tag[0] is _Kind.CLOSE


def _last_tag(prompt: str) -> tuple[_Kind, str] | None:
    """Return the tag at the very end of a prompt."""
    tail = prompt.rstrip()[-_MAX_TAG:]
    tag = next((tag for tag in _bracketed(tail) if tag.end == len(tail)), None)
    return None if tag is None else (tag.kind, tail[tag.start :])


def is_tag(text: str) -> bool:
    """Tell whether a text, such as a special token, is a tag of thinking or a part of one."""
    tag = next(_bracketed(text), None)
    if tag is not None and tag.kind in (_Kind.OPEN, _Kind.CLOSE):
        return tag.end - tag.start == len(text)
    return text in _PARTS


def joined(text: str, spans: Iterable[Span]) -> str:
    """Return the text of these spans, one after another."""
    return "".join([text[start:end] for start, end in spans])


def merged(spans: Iterable[Span]) -> Spans:
    """Return the spans, in order, with those that touch as one."""
    whole: list[Span] = []
    for start, end in spans:
        if whole and whole[-1][1] == start:
            whole[-1] = (whole[-1][0], end)
        else:
            whole.append((start, end))
    return tuple(whole)


def shifted(spans: Spans, by: int) -> Spans:
    """Return the spans where other text stands before theirs."""
    return tuple((start + by, end + by) for start, end in spans)


def clipped(spans: Spans, start: int) -> Spans:
    """Return the part of the spans from `start` on, counted from there."""
    return tuple((max(a - start, 0), b - start) for a, b in spans if b > start or a >= start)


class _Scan:
    """The state of a split; `family` is that of the thinking that is open, "" in the reply."""

    def __init__(self, text: str, finished: bool, has_thought: bool = False) -> None:
        self.text, self.finished = text, finished
        self.family = ""
        self.at = 0  # where the stretch begins that goes up to the next tag
        self.opened: _Tag | None = None  # the tag that opened the thinking we are in
        self.mentioned = -1  # up to here a closing tag belongs to a mention of an opening one
        self.thinking: list[Span] = []
        self.reply: list[Span] = []
        self.n_before = 0  # how many spans of `reply` precede the first thinking
        self.has_thought = has_thought  # whether some thinking was closed already
        self.in_response = False

    def take(self, tag: _Tag) -> None:
        """Take the next tag."""
        if self.family:
            self._take_while_thinking(tag)
        elif tag.kind is _Kind.OPEN:
            if self._is_mention(tag):
                self._note_mention(tag)
            else:
                self._end_reply(tag)
                self.family, self.opened = tag.family, tag
        elif tag.kind is _Kind.CLOSE:
            self._take_close(tag)
        elif tag.family != "ernie" or self._frames_response(tag):
            self._end_reply(tag)

    def result(self) -> Split:
        """Return the split once all tags were taken."""
        closing, end = "", len(self.text)
        if self.family:
            assert self.opened is not None
            if self._is_mid_line(self.opened):  # a mention after all
                start = self.reply.pop()[0] if self.reply else 0
                self.reply.append((start, end))
            else:
                self._think_up_to(end)
                closing = _closing(self.text, self.opened)
        else:
            self.reply.append((self.at, end))
        before, after = self.reply[: self.n_before], self.reply[self.n_before :]
        if self.has_thought and any(self.text[a:b].strip() for a, b in after):
            before = []
        spans = tuple((a, b) for a, b in (*before, *after) if a < b)
        return Split(self.text, tuple(self.thinking), spans, closing)

    def _take_while_thinking(self, tag: _Tag) -> None:
        ends = tag.kind in (_Kind.CLOSE, _Kind.END, _Kind.REPLY)
        if ends and tag.family == self.family and not self._is_mention(tag):
            self._think_up_to(tag.start)
            self.family, self.at = "", tag.end

    def _take_close(self, tag: _Tag) -> None:
        if self._is_mention(tag) or tag.start < self.mentioned:
            return
        # only the first one may end a thinking whose opening tag is in the prompt
        is_stray = self.has_thought or (self.finished and not self.text[tag.end :].strip())
        if is_stray:
            self._end_reply(tag)
        else:
            self.reply.clear()
            self.at = 0
            self._think_up_to(tag.start)
            self.at = tag.end

    def _think_up_to(self, end: int) -> None:
        if not self.has_thought:
            self.has_thought, self.n_before = True, len(self.reply)
        self.thinking.append((self.at, end))

    def _end_reply(self, tag: _Tag) -> None:
        self.reply.append((self.at, tag.start))
        self.at = tag.end

    def _frames_response(self, tag: _Tag) -> bool:
        """Tell whether `<response>` follows the thinking at once, or `</response>` ends that."""
        if self.text[tag.start + 1] == "/":
            framed, self.in_response = self.in_response, False
            return framed
        self.in_response = self.has_thought and not self.text[self.at : tag.start].strip()
        return self.in_response

    def _is_mention(self, tag: _Tag) -> bool:
        before, after = self.text[tag.start - 1 : tag.start], self.text[tag.end : tag.end + 1]
        return before in _QUOTES and (tag.kind is _Kind.OPEN or after in _QUOTES)

    def _note_mention(self, tag: _Tag) -> None:
        if tag.start >= self.mentioned:  # otherwise known already
            end = self.text.find("\n", tag.end)
            self.mentioned = len(self.text) if end < 0 else end

    def _is_mid_line(self, tag: _Tag) -> bool:
        """Tell whether text precedes an opening tag on its line, after the tag before it."""
        after_tag = self.reply[-1][0] if self.reply else 0
        start = max(self.text.rfind("\n", 0, tag.start) + 1, after_tag)
        return bool(self.text[start : tag.start].strip())


def _tags(text: str) -> Iterator[_Tag]:
    """Yield the tags of a text in order."""
    phrases = list(_phrases(text))
    if not phrases:
        return _bracketed(text)
    return iter(sorted([*phrases, *_bracketed(text)], key=lambda tag: tag.start))


def _bracketed(text: str) -> Iterator[_Tag]:
    for bracket in _BRACKET.finditer(text):
        match = _TAG.match(text, bracket.start())
        if match is None:
            continue
        kind, family = _LITERAL.get(match[0].lower(), (None, ""))
        if kind is None and match[6]:
            kind, family = _channel(match[6].lower(), match[7])
        elif kind is None:
            kind = _Kind.CLOSE if match[1] or match[4] or match[5] else _Kind.OPEN
            # a model may close <thinking> by </think>
            family = match[0][0] + (match[2] or "think").lower().replace("thinking", "think")
        yield _Tag(match.start(), match.end(), kind, family)


def _channel(name: str, recipient: str) -> tuple[_Kind, str]:
    is_reply = name == "final" or (name == "commentary" and "to=" not in recipient)
    return (_Kind.REPLY if is_reply else _Kind.OPEN), "harmony"


def _phrases(text: str) -> Iterator[_Tag]:
    for family, opening in _PHRASES:
        if match := opening.match(text):
            yield _Tag(match.start(), match.end(), _Kind.OPEN, family)
            if end := _PHRASES_OF_REPLY[family].search(text, match.end()):
                yield _Tag(end.start(), end.end(), _Kind.CLOSE, family)


def _closing(text: str, opened: _Tag) -> str:
    tag = text[opened.start : opened.end]
    return _CLOSING.get(opened.family) or f"{tag[0]}/{tag[1:]}"
