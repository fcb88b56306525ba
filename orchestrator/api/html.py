"""Pieces of HTML for notebooks: tables, bars and the race as SVG.

The one rule: every text that is given is escaped here, so a model's text never becomes markup; and
there is no script, no style sheet and no address. Colours are readable on white and on black.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from orchestrator.api.race import PROBED, Lane
from orchestrator.core.errors import printable
from orchestrator.core.votes import AttemptState

_N_CHARACTERS = 200  # of a text
_N_LANES = 64  # of a race
_WIDTH, _HEIGHT, _LABEL = 360, 12, 110  # pixels, of the longest lane, of one, of the texts
BLUE, GREY, ORANGE, RED = "#4a90d9", "#8c8c8c", "#d98a1f", "#d94a4a"
COLOURS = {
    AttemptState.VOTED: BLUE,
    AttemptState.UNUSED: GREY,
    AttemptState.DROPPED: ORANGE,
    AttemptState.FAILED: RED,
}  # else grey


def text(value: str) -> str:
    """Return a text as HTML, shortened, on one line and without control characters."""
    line = " ".join(printable(value[: 10 * _N_CHARACTERS]).split())
    line = line if len(line) <= _N_CHARACTERS else f"{line[: _N_CHARACTERS - 1]}…"
    return escape(line.encode("utf-8", "replace").decode())


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts."""
    return markup_table(caption, headings, (map(text, row) for row in rows))


def markup_table(caption: str, headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table whose cells are HTML already."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    cell = '<td style="text-align: left">'
    body = "".join(f"<tr>{''.join(f'{cell}{one}</td>' for one in row)}</tr>" for row in rows)
    return (
        f'<table style="color: inherit"><caption>'
        f"{text(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def bar(share: float) -> str:
    """Return a share as a bar with its percentage."""
    width = round(100 * min(1.0, max(0.0, share)))
    return (
        f'<svg width="104" height="{_HEIGHT}" role="img" aria-label="{share:.0%}">'
        f'<rect width="{width}" height="{_HEIGHT}" fill="{BLUE}"/></svg> {share:.0%}'
    )


def race_svg(lanes: Sequence[Lane]) -> str:
    """Return the race of attempts: a bar each over tokens, with its probes and checkpoints."""
    shown = lanes[:_N_LANES]
    longest = max([lane.tokens for lane in shown], default=0) or 1
    rows = "".join(_lane(lane, n * (_HEIGHT + 4), longest) for n, lane in enumerate(shown))
    height = len(shown) * (_HEIGHT + 4)
    left = f"<div>{len(lanes) - len(shown):,} more attempts</div>" if len(lanes) > _N_LANES else ""
    # on a narrow page it is scrolled: a page's own style may shrink pictures, which would cut this
    return (
        f'<div style="overflow-x: auto"><svg width="{2 * _LABEL + _WIDTH + 60}" height="{height}" '
        f'style="max-width: none; height: {height}px" role="img" '
        f'aria-label="{len(lanes)} attempts over tokens" font-size="11" fill="currentColor">'
        f"{rows}</svg></div>{left}"
    )


def _lane(lane: Lane, y: int, longest: int) -> str:
    def x(tokens: int) -> float:
        return _LABEL + _WIDTH * tokens / longest

    colour = COLOURS.get(lane.state, GREY)
    marks = "".join(
        f'<circle cx="{x(m.tokens):.1f}" cy="{y + 6}" r="3" fill="none" stroke="currentColor"/>'
        if m.what == PROBED
        else f'<line x1="{x(m.tokens):.1f}" x2="{x(m.tokens):.1f}" y1="{y}" y2="{y + _HEIGHT}" '
        'stroke="currentColor"/>'
        for m in lane.marks
    )
    end = f"{lane.tokens:,} · {'no answer' if lane.answer is None else lane.answer[:24]}"
    return (
        f'<text x="0" y="{y + 10}">{lane.ordinal} {text(lane.state.value)}</text>'
        f'<rect x="{_LABEL}" y="{y}" width="{_WIDTH * lane.tokens / longest:.1f}" '
        f'height="{_HEIGHT}" fill="{colour}" fill-opacity="0.75"/>{marks}'
        f'<text x="{x(lane.tokens) + 4:.1f}" y="{y + 10}">{text(end)}</text>'
    )
