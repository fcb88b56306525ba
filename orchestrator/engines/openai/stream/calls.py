"""The calls of tools in a stream: their pieces, and the calls that these make up. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.values import ToolCall, changed


@dataclass(frozen=True, slots=True)
class _Function:
    name: str | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a call; its first piece has the name, and mostly an id."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class StreamedCalls:
    """Collects the pieces of a stream."""

    def __init__(self) -> None:
        """Start with no call."""
        self._calls: dict[int, ToolCall] = {}

    def take(self, deltas: Iterable[CallDelta]) -> int:
        """Add pieces and return the number of their characters."""
        n_chars = 0
        for delta in deltas:
            function = delta.function or _Function()
            name, arguments = function.name or "", function.arguments or ""
            place = self._place(delta, name)
            call = self._calls.get(place, ToolCall("", ""))
            self._calls[place] = changed(
                call,
                name=call.name or name,
                arguments=call.arguments + arguments,
                id=call.id or delta.id or "",
            )
            n_chars += len(name) + len(arguments)
        return n_chars

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in the server's order."""
        calls = (self._calls[place] for place in sorted(self._calls))
        return tuple(changed(call, arguments=call.arguments or "{}") for call in calls)

    def _place(self, delta: CallDelta, name: str) -> int:
        """Return the place of the call that a piece belongs to; some servers send no index."""
        if delta.index is not None:
            return delta.index
        last = max(self._calls, default=-1)
        is_new = bool(name and delta.id != self._calls[last].id) if self._calls else True
        return last + 1 if is_new else last
