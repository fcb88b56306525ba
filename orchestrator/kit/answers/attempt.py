"""What is read of an attempt: its reply, and its thinking only where the plan says so. Pure.

The one rule: an attempt is split as a whole, with all that it inherited and every forced suffix,
because its thinking may begin in one trace and end in another. An engine that has split a trace
(by a parser, or because its server did) is believed; everything else is split by tags. Not covered:
reading itself (the domains).
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.values import Finish, Purpose, Request, Trace, changed
from orchestrator.kit.answers.thinking import Split, clipped, joined, shifted, split


@dataclass(frozen=True, slots=True)
class Reading:
    """What a domain reads of an attempt: a text, and whether the model came to its end.

    `whole` is the attempt up to this trace.
    """

    text: str
    finished: bool
    whole: Split
    n_inherited: int  # characters of `whole` before the trace's own text

    def with_parts(self, trace: Trace) -> Trace:
        """Return the trace with its own thinking and reply; as it is without any tag."""
        if trace.reply_spans is not None or self.whole.is_plain:
            return trace
        return changed(
            trace,
            thinking_spans=clipped(self.whole.thinking, self.n_inherited),
            reply_spans=clipped(self.whole.reply, self.n_inherited),
        )

    def attempt(self, trace: Trace) -> Trace:
        """Return the trace with the text of the whole attempt, as verifiers see it."""
        if not self.n_inherited:
            return trace
        whole = self.whole
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
    if request.parent is not None or request.suffix:
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
