"""Thinking and reply of a text that is still being generated.

The one rule: what was passed on is never taken back, so what may be a tag, and white space at the
end, is held back until it is known. The finished attempt decides
(`orchestrator.kit.answers.thinking`); here only the tags of a thinking at the beginning are seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.kit.answers.tags import Kind, tags

_MAX_TAG = 32  # characters of a tag that is held back until it is whole
_BRACKETS = "<[◁"


@dataclass(slots=True)
class PartStream:
    """Splits pieces of a text; `thinking` and `reply` are what was passed on of each."""

    thinking: str = ""
    reply: str = ""
    _held: str = ""
    _family: str = ""  # of the thinking that is open
    _may_think: bool = True  # nothing but white space has come

    def feed(self, piece: str) -> Iterator[tuple[bool, str]]:
        """Yield the texts that a piece makes known, each with whether it is thinking."""
        self._held += piece
        while (tag := self._tag()) is not None:
            start, end, family = tag
            yield from self._pass_on(self._held[:start], final=True)
            self._held, self._family = self._held[end:], family
            self._may_think = False
        cut = self._undecided()
        ready, self._held = self._held[:cut], self._held[cut:]
        yield from self._pass_on(ready, final=False)

    def rest(self, thinking: str, reply: str) -> Iterator[tuple[bool, str]] | None:
        """Return what is missing of the finished attempt; None if it is not what was passed on."""
        if not (thinking.startswith(self.thinking) and reply.startswith(self.reply)):
            return None
        missing = ((True, thinking[len(self.thinking) :]), (False, reply[len(self.reply) :]))
        return iter([part for part in missing if part[1]])

    def _tag(self) -> tuple[int, int, str] | None:
        """Return the next tag that changes the part, and the family that is open after it."""
        if not self._family and not self._may_think:
            return None
        for tag in tags(self._held):
            if self._family and tag.kind is not Kind.OPEN and tag.family == self._family:
                return tag.start, tag.end, ""
            if not self._family and tag.kind is Kind.OPEN and not self._held[: tag.start].strip():
                return tag.start, tag.end, tag.family
        return None

    def _undecided(self) -> int:
        """Return from where the held text may yet be a tag, or is white space at its end."""
        text = self._held
        n = len(text.rstrip())
        if self._family or self._may_think:
            first = min((i for b in _BRACKETS if (i := text.rfind(b)) >= 0), default=n)
            if len(text) - first <= _MAX_TAG:
                n = min(n, len(text[:first].rstrip()))
        return n

    def _pass_on(self, text: str, *, final: bool) -> Iterator[tuple[bool, str]]:
        is_thought = bool(self._family)
        known = self.thinking if is_thought else self.reply
        if not known and (is_thought or not self._may_think):
            text = text.lstrip()  # as the finished attempt has it beside a thinking
        if final:
            text = text.rstrip()
        if not text:
            return
        if is_thought:
            self.thinking += text
        else:
            self._may_think = False
            self.reply += text
        yield is_thought, text
