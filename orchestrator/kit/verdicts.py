"""How a judge's reply becomes a verdict, and which verdicts a pool holds. Pure.

A generative judge is a request: `purpose=VERIFY, subjects=(ordinal,)` asks for a verdict on one
trace, `purpose=COMPARE, subjects=(first, second)` which of two is right. The judge may be the same
model, another pool (`model`) or another depth (`depth`). A turn on the way to a verdict (a rewrite,
a scan for errors) has no subjects. The trace carries the `subjects` of its request, so a finished
pool says by itself who was judged and how: that is all a selector needs.

Three forms of verdict, each a line of its own; the last one counts, and only after a closed
`</think>`:

    Verdict: correct        | incorrect
    Score: 7/10             | Score: 7
    Winner: 1               | 2, or tie

The one rule: a reply that states none of them is no verdict. It is left out, never read as 0 or as
one half.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.values import Finish, Purpose, Trace
from orchestrator.kit.answers.find import reply

VERDICT_FORM = 'End with a line of its own: "Verdict: correct" or "Verdict: incorrect".'
SCORE_FORM = (
    'End with a line of its own: "Score: n/10", n from 1 (certainly wrong) to 10 (certainly right).'
)
WINNER_FORM = 'End with a line of its own: "Winner: 1" or "Winner: 2".'

_MARKS = r"[ \t*_`#>]{0,6}"  # what Markdown puts around a word
_VERDICT = re.compile(
    rf"\bverdict{_MARKS}(?::|=|\bis\b){_MARKS}(?:\\boxed\{{)?{_MARKS}(?P<no>not[ \t]{{1,2}})?(?P<word>correct|incorrect|right|wrong|1|0)\b",
    re.IGNORECASE,
)
_SCORE = re.compile(
    rf"\b(?:score|rating){_MARKS}(?::|=|\bis\b){_MARKS}(?:\\boxed\{{)?{_MARKS}"
    r"(?P<n>\d{1,3}(?:\.\d{1,3})?)\b(?![.\d])(?:[ \t]{0,2}/[ \t]{0,2}(?P<of>\d{1,3}))?",
    re.IGNORECASE,
)
_WINNER = re.compile(
    rf"\bwinner{_MARKS}(?::|=|\bis\b){_MARKS}(?:\\boxed\{{)?{_MARKS}(?:(?:solution|response|answer)[ \t]{{1,2}})?(?P<who>1|2|tie)\b",
    re.IGNORECASE,
)
_RIGHT = frozenset({"correct", "right", "1"})
TOP_SCORE = 10


def verdict(text: str) -> float | None:
    """Return 1.0 for "correct", 0.0 for "incorrect"; None when neither is stated."""
    found = _last(_VERDICT, text)
    if found is None:
        return None
    right = found["word"].lower() in _RIGHT
    return float(right != (found["no"] is not None))


def rating(text: str) -> float | None:
    """Return a stated score 1 to 10 as a share of 1: (n - 1) / 9; None when none is stated or it is
    out of range.
    """
    found = _last(_SCORE, text)
    if found is None or found["of"] not in (None, str(TOP_SCORE)):
        return None
    n = float(found["n"])
    return (n - 1) / (TOP_SCORE - 1) if 1 <= n <= TOP_SCORE else None


def winner(text: str) -> float | None:
    """Return 1.0 when the first of two is named the winner, 0.0 when the second is, 0.5 for a
    stated tie; None when nothing is stated.
    """
    found = _last(_WINNER, text)
    return None if found is None else {"1": 1.0, "2": 0.0, "tie": 0.5}[found["who"].lower()]


def opinion(trace: Trace) -> float | None:
    """Return a judge's verdict on one trace, whether it is stated as a verdict or as a score; None
    when it states none or both.
    """
    stated = [value for value in (verdict(trace.text), rating(trace.text)) if value is not None]
    return (
        stated[0]
        if len(stated) == 1 and trace.finish not in (Finish.FAILED, Finish.CANCELLED)
        else None
    )


def opinions(traces: Iterable[Trace]) -> dict[int, list[float]]:
    """Return, by the ordinal of the trace judged, the verdicts on it in the order of the judges'
    ordinals; unreadable ones are left out.
    """
    found: dict[int, list[float]] = {}
    for trace in sorted(traces, key=lambda t: t.ordinal):
        if (
            trace.purpose is Purpose.VERIFY
            and len(trace.subjects) == 1
            and (value := opinion(trace)) is not None
        ):
            found.setdefault(trace.subjects[0], []).append(value)
    return found


@dataclass(frozen=True, slots=True)
class Match:
    """One comparison: `share` is 1.0 when `first` won, 0.0 when `second` did, 0.5 for a tie."""

    first: int
    second: int
    share: float


def matches(traces: Iterable[Trace]) -> list[Match]:
    """Return the comparisons in a pool, by the judges' ordinals; unreadable ones are left out."""
    found = []
    for trace in sorted(traces, key=lambda t: t.ordinal):
        judged = (
            trace.purpose is Purpose.COMPARE
            and len(trace.subjects) == 2
            and trace.finish not in (Finish.FAILED, Finish.CANCELLED)
        )
        if judged and (share := winner(trace.text)) is not None:
            found.append(Match(trace.subjects[0], trace.subjects[1], share))
    return found


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(reply(text, finished=True).text):  # noqa: B007 - the last one is wanted
        pass
    return found
