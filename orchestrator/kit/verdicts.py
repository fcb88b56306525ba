"""Reading verdicts and comparisons from an LLM judge's replies, and finding them in a pool. Pure.

A judge is a request: `purpose=VERIFY, subjects=(ordinal,)` requests a verdict on one trace, and
`purpose=COMPARE, subjects=(first, second)` a choice between two. It may use the same model, another
pool (`model`) or another depth (`depth`). An intermediate turn before a verdict (a rewrite, a scan
for errors) has no subjects. The trace carries the `subjects` of its request, so a selector can read
the verdicts from a finished pool alone:

    for ordinal, scores in opinions(traces).items(): ...

There are three forms of verdict, each on a separate line. The last one counts; thinking is ignored:

    Verdict: correct        | incorrect
    Score: 7/10             | Score: 7
    Winner: 1               | 2, or tie

The one rule: a reply in none of these forms is not a verdict. It is left out, never read as 0 or
as 0.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.values import Purpose, Trace
from orchestrator.kit.answers.find import reply

VERDICT_FORM = 'End with a line of its own: "Verdict: correct" or "Verdict: incorrect".'
SCORE_FORM = (
    'End with a line of its own: "Score: n/10", n from 1 (certainly wrong) to 10 (certainly right).'
)
WINNER_FORM = 'End with a line of its own: "Winner: 1" or "Winner: 2".'

_MARKS = r"[ \t*_`#>]{0,6}"  # what Markdown puts around a word
_SEPARATOR = rf"{_MARKS}(?::|=|\bis\b){_MARKS}(?:\\boxed\{{)?{_MARKS}"
_VERDICT = re.compile(
    rf"\bverdict{_SEPARATOR}(?P<no>not[ \t]{{1,2}})?"
    r"(?P<word>correct|incorrect|right|wrong|1|0)\b",
    re.IGNORECASE,
)
_SCORE = re.compile(
    rf"\b(?:score|rating){_SEPARATOR}"
    r"(?P<n>\d{1,3}(?:\.\d{1,3})?)\b(?![.\d])(?:[ \t]{0,2}/[ \t]{0,2}(?P<of>\d{1,3}))?",
    re.IGNORECASE,
)
_WINNER = re.compile(
    rf"\bwinner{_SEPARATOR}(?:(?:solution|response|answer)[ \t]{{1,2}})?(?P<who>1|2|tie)\b",
    re.IGNORECASE,
)
_RIGHT = frozenset({"correct", "right", "1"})
_TOP_SCORE = 10


def verdict(text: str) -> float | None:
    """Return 1.0 for "correct", 0.0 for "incorrect"; None if the reply contains neither."""
    match = _last(_VERDICT, text)
    if match is None:
        return None
    right = match["word"].lower() in _RIGHT
    return float(right != (match["no"] is not None))


def rating(text: str) -> float | None:
    """Return a score from 1 to 10 scaled to [0, 1]: (n - 1) / 9.

    None if there is no score or it is out of range.
    """
    match = _last(_SCORE, text)
    if match is None or match["of"] not in (None, str(_TOP_SCORE)):
        return None
    n = float(match["n"])
    return (n - 1) / (_TOP_SCORE - 1) if 1 <= n <= _TOP_SCORE else None


def winner(text: str) -> float | None:
    """Return 1.0 when the first of two wins, 0.0 when the second does, 0.5 for a tie; else None."""
    match = _last(_WINNER, text)
    return None if match is None else {"1": 1.0, "2": 0.0, "tie": 0.5}[match["who"].lower()]


def _opinion(trace: Trace) -> float | None:
    """Return a judge's verdict on one trace, read from either a verdict or a score.

    None if the reply contains neither or both.
    """
    values = [value for value in (verdict(trace.text), rating(trace.text)) if value is not None]
    return values[0] if len(values) == 1 else None


def opinions(traces: Iterable[Trace]) -> dict[int, list[float]]:
    """Return the verdicts on each trace, by its ordinal; unreadable ones are left out.

    The verdicts on a trace are in the order of the judge requests' ordinals.
    """
    by_subject: dict[int, list[float]] = {}
    for trace in _replies(traces, Purpose.VERIFY, n_subjects=1):
        if (value := _opinion(trace)) is not None:
            by_subject.setdefault(trace.subjects[0], []).append(value)
    return by_subject


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison: `share` is 1.0 when `first` won, 0.0 when `second` did, 0.5 for a tie."""

    first: int
    second: int
    share: float


def matches(traces: Iterable[Trace]) -> list[Comparison]:
    """Return a pool's comparisons by ordinal of the judge's request, without unreadable ones."""
    replies = _replies(traces, Purpose.COMPARE, n_subjects=2)
    return [
        Comparison(trace.subjects[0], trace.subjects[1], share)
        for trace in replies
        if (share := winner(trace.text)) is not None
    ]


def _replies(traces: Iterable[Trace], purpose: Purpose, n_subjects: int) -> list[Trace]:
    """Return the judges' replies with `n_subjects` subjects, by ordinal, without lost ones."""
    replies = (
        t for t in traces if t.purpose is purpose and len(t.subjects) == n_subjects and not t.lost
    )
    return sorted(replies, key=lambda t: t.ordinal)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(reply(text, finished=True).text))
    return matches[-1] if matches else None
