"""The lineage of a trace: the chain of traces that it continues, from the first one to itself.

An attempt that is cut at checkpoints is several traces, each the parent of the next. Whoever needs
the whole of it walks the chain here:

    links = lineage(trace, by_ordinal)
    text, tokens = whole_text(links), output_tokens(links)

The one rule: order is that of generation, first to last. Which trace an attempt ends with is
`core.votes.unended`'s to say. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.core.values import Trace


def lineage(trace: Trace, by_ordinal: Mapping[int, Trace]) -> list[Trace]:
    """Return the traces that lead to this one, in order of generation, and the trace itself last.

    It begins later where `by_ordinal` lacks a parent: then the first one's `parent` is not None.
    """
    links = [trace]
    while trace.parent is not None and trace.parent in by_ordinal:
        trace = by_ordinal[trace.parent]
        links.append(trace)
    return links[::-1]


def whole_text(links: Iterable[Trace]) -> str:
    """Return the text of a lineage, without the suffixes that were forced between its traces."""
    return "".join([trace.text for trace in links])


def output_tokens(links: Iterable[Trace]) -> int:
    """Return how many tokens a lineage generated, without forced suffixes and verifiers' tokens."""
    return sum([trace.usage.output_tokens for trace in links])
