"""The lineage of a trace: the chain of traces that it continues, from the first one to itself.

An attempt that is cut at checkpoints consists of several traces, each the parent of the next. Code
that needs the whole attempt walks the chain with these functions:

    links = lineage(trace, by_ordinal)
    text, tokens = whole_text(links), output_tokens(links)
    whole(links).reply                    # without the thinking

The one rule: traces are in the order of generation, first to last. `core.votes.attempt_ends` tells
which traces end an attempt. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.values import Spans, Trace, changed


def lineage(trace: Trace, by_ordinal: Mapping[int, Trace]) -> list[Trace]:
    """Return the traces that lead to this one, in order of generation, with the trace itself last.

    Where `by_ordinal` lacks a parent, the chain begins after it, and the `parent` of the first
    trace is not None.
    """
    links = [trace]
    while trace.parent is not None and trace.parent in by_ordinal:
        trace = by_ordinal[trace.parent]
        links.append(trace)
    links.reverse()
    return links


def whole_text(links: Iterable[Trace]) -> str:
    """Return the text of a lineage, without the suffixes that were forced between its traces."""
    return "".join([trace.text for trace in links])


def whole(links: Sequence[Trace]) -> Trace:
    """Return the last trace with the text of its lineage, and the thinking and reply in that.

    As in `whole_text`, forced suffixes are left out.
    """
    logprobs = tuple(one for trace in links for one in trace.logprobs)
    if all(trace.reply_spans is None for trace in links):
        return changed(links[-1], text=whole_text(links), logprobs=logprobs)
    thinking: Spans = ()
    reply: Spans = ()
    text = ""
    for trace in links:
        own = ((0, len(trace.text)),) if trace.reply_spans is None else trace.reply_spans
        thinking += tuple((a + len(text), b + len(text)) for a, b in trace.thinking_spans)
        reply += tuple((a + len(text), b + len(text)) for a, b in own)
        text += trace.text
    return changed(
        links[-1], text=text, thinking_spans=thinking, reply_spans=reply, logprobs=logprobs
    )


def output_tokens(links: Iterable[Trace]) -> int:
    """Return the number of tokens a lineage generated, without forced suffixes or verification."""
    return sum([trace.usage.output_tokens for trace in links])
