r"""Where a text's thinking ends and its reply begins. Linear time on any text.

    parts = split("<think>6*7</think>The answer is 42.")
    parts.reply_text                    # "The answer is 42."
    parts.thinking_text                 # "6*7"

`reading` decides what of an attempt a domain reads. An attempt is split as a whole, with all that
it inherited and every forced suffix, because its thinking may begin in one trace and end in
another. An engine that has split a trace (by a parser, or because its server did) is believed;
everything else is split by tags.

The one rule: nothing that a model only thought is part of its reply. Not covered: the tags
themselves (`tags`), what the reply says (`find`), and servers and parsers that split a reply
(`orchestrator.engines`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.core.values import Finish, Purpose, Request, Span, Spans, Trace, changed
from orchestrator.kit.answers.tags import Kind, Tag, closing_tag, may_have_tags, tags

_QUOTES = frozenset("\"'`“”‘’")


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
    def is_plain(self) -> bool:
        """Whether there is neither thinking nor a tag: all of the text is its reply."""
        return not self.thinking and joined(self.text, self.reply) is self.text

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
    if not may_have_tags(text):
        return Split(text, (), ((0, len(text)),) if text else ())
    scan = _Scan(text, finished)
    for tag in tags(text):
        scan.take(tag)
    return scan.result()


def refined(text: str, thinking: Spans, reply: Spans) -> Split:
    """Return a split that a parser or a server made, without the tags that it left in the reply."""
    for start, end in reply:
        scan = _Scan(text[start:end], finished=True, has_thought=bool(thinking))
        for tag in tags(scan.text):
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


class Reading(NamedTuple):
    """What a domain reads of an attempt: a text, and whether the model came to its end.

    `whole` is the attempt up to this trace; None if it is this trace alone, without any tag.
    """

    text: str
    finished: bool
    whole: Split | None = None
    n_inherited: int = 0  # characters of `whole` before the trace's own text

    def with_parts(self, trace: Trace) -> Trace:
        """Return the trace with its own thinking and reply; as it is without any tag."""
        if self.whole is None or trace.reply_spans is not None or self.whole.is_plain:
            return trace
        return changed(
            trace,
            thinking_spans=clipped(self.whole.thinking, self.n_inherited),
            reply_spans=clipped(self.whole.reply, self.n_inherited),
        )

    def attempt(self, trace: Trace) -> Trace:
        """Return the trace with the text of the whole attempt, as verifiers see it."""
        whole = self.whole
        if whole is None or not self.n_inherited:
            return trace
        return changed(
            trace, text=whole.text, thinking_spans=whole.thinking, reply_spans=whole.reply
        )


def reading(request: Request, trace: Trace, answers_in_thinking: bool) -> Reading:
    """Return what is read of the attempt that a trace completes.

    Of an attempt without a reply, nothing is read; with `answers_in_thinking` its last thinking is,
    as an unfinished text. A probe asks for an answer while its attempt still thinks, so there it is
    read in any case.
    """
    finished = trace.finish is Finish.STOP
    inherited = ""
    if request.parent is None and not request.suffix:
        if trace.reply_spans is None and not may_have_tags(trace.text):  # nearly always
            return Reading(trace.text, finished)
    else:
        inherited = f"{request.prefix_text}{request.suffix}"
    whole = _whole(inherited, trace, finished)
    text = whole.reply_text
    if whole.thinking and (answers_in_thinking or request.purpose is Purpose.PROBE):
        thinking = joined(whole.text, whole.thinking[-1:])
        if whole.is_open or not text.strip():
            return Reading(thinking, False, whole, len(inherited))
    return Reading(text, finished and not whole.is_open, whole, len(inherited))


def _whole(inherited: str, trace: Trace, finished: bool) -> Split:
    if trace.reply_spans is None:
        return split(inherited + trace.text, finished)
    before, by = split(inherited, finished=False), len(inherited)
    return Split(
        inherited + trace.text,
        before.thinking + shifted(trace.thinking_spans, by),
        before.reply + shifted(trace.reply_spans, by),
    )


def joined(text: str, spans: Iterable[Span]) -> str:
    """Return the text of these spans, one after another; the text itself if they are all of it."""
    if spans == ((0, len(text)),):
        return text
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
        self.opened: Tag | None = None  # the tag that opened the thinking we are in
        self.mentioned = -1  # up to here a closing tag belongs to a mention of an opening one
        self.thinking: list[Span] = []
        self.reply: list[Span] = []
        self.n_before = 0  # how many spans of `reply` precede the first thinking
        self.has_thought = has_thought  # whether some thinking was closed already
        self.in_response = False

    def take(self, tag: Tag) -> None:
        """Take the next tag."""
        if self.family:
            self._take_while_thinking(tag)
        elif tag.kind is Kind.OPEN:
            if self._is_mention(tag):
                self._note_mention(tag)
            else:
                self._end_reply(tag)
                self.family, self.opened = tag.family, tag
        elif tag.kind is Kind.CLOSE:
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
                closing = closing_tag(self.text, self.opened)
        else:
            self.reply.append((self.at, end))
        before, after = self.reply[: self.n_before], self.reply[self.n_before :]
        if self.has_thought and any(self.text[a:b].strip() for a, b in after):
            before = []
        spans = tuple((a, b) for a, b in (*before, *after) if a < b)
        return Split(self.text, tuple(self.thinking), spans, closing)

    def _take_while_thinking(self, tag: Tag) -> None:
        ends = tag.kind in (Kind.CLOSE, Kind.END, Kind.REPLY)
        if ends and tag.family == self.family and not self._is_mention(tag):
            self._think_up_to(tag.start)
            self.family, self.at = "", tag.end

    def _take_close(self, tag: Tag) -> None:
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

    def _end_reply(self, tag: Tag) -> None:
        self.reply.append((self.at, tag.start))
        self.at = tag.end

    def _frames_response(self, tag: Tag) -> bool:
        """Tell whether `<response>` follows the thinking at once, or `</response>` ends that."""
        if self.text[tag.start + 1] == "/":
            framed, self.in_response = self.in_response, False
            return framed
        self.in_response = self.has_thought and not self.text[self.at : tag.start].strip()
        return self.in_response

    def _is_mention(self, tag: Tag) -> bool:
        before, after = self.text[tag.start - 1 : tag.start], self.text[tag.end : tag.end + 1]
        return before in _QUOTES and (tag.kind is Kind.OPEN or after in _QUOTES)

    def _note_mention(self, tag: Tag) -> None:
        if tag.start >= self.mentioned:  # otherwise known already
            end = self.text.find("\n", tag.end)
            self.mentioned = len(self.text) if end < 0 else end

    def _is_mid_line(self, tag: Tag) -> bool:
        """Tell whether text precedes an opening tag on its line, after the tag before it."""
        after_tag = self.reply[-1][0] if self.reply else 0
        start = max(self.text.rfind("\n", 0, tag.start) + 1, after_tag)
        return bool(self.text[start : tag.start].strip())
