"""Which candidates verdicts favour, and who wins a contest of comparisons: Sample, Scrutinize and Scale (arXiv 2502.01839), Algorithm 1.

Pure functions over a pool's verdicts, used twice: by the strategy, to decide whom to compare, and by the selector, to rank from the
finished pool. Both therefore come to the same view, also when a pool is read again later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.types import Purpose, Trace
from orchestrator.core.verdicts import Match, opinions
from orchestrator.core.votes import voters

TIE_BAND = 0.05  # Algorithm 1, line 9
MAX_TIED = 3  # section 3.1: the three highest scoring candidates
_ROUNDING = 1e-9  # .95 - .05 is not .9 in floating point; a band is closed, so its edge belongs to it


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trace that states an answer and has been judged: the mean of its verdicts and how many there are."""

    ordinal: int
    key: str
    mean: float
    n_verdicts: int


def candidates(traces: Sequence[Trace]) -> list[Candidate]:
    """Return the judged candidates of a pool, best first: by mean, then number of verdicts, then the lower ordinal.

    One about whom judges were asked at most half as often as about the most asked was dropped after preliminary scoring: it is left out,
    because a few lucky verdicts would otherwise beat many.
    """
    on = opinions(traces)
    n_asked = Counter(t.subjects[0] for t in traces if t.purpose is Purpose.VERIFY and len(t.subjects) == 1)
    most = max(n_asked.values(), default=0)
    found = []
    for trace in voters(traces):
        given = on.get(trace.ordinal)
        if given and trace.answer is not None and 2 * n_asked[trace.ordinal] > most:
            found.append(Candidate(trace.ordinal, trace.answer.key, sum(given) / len(given), len(given)))
    return sorted(found, key=lambda c: (-c.mean, -c.n_verdicts, c.ordinal))


def tied(ranked: Sequence[Candidate], band: float = TIE_BAND, limit: int = MAX_TIED) -> list[Candidate]:
    """Return who has to be compared: the best candidate of each answer among the `limit` best whose mean is within `band` of the best.

    Fewer than two answers need no comparison: then it is [].
    """
    best: dict[str, Candidate] = {}
    for candidate in ranked[:limit]:
        if candidate.mean >= ranked[0].mean - band - _ROUNDING:
            best.setdefault(candidate.key, candidate)
    return list(best.values()) if len(best) > 1 else []


def matchups_won(matches: Iterable[Match]) -> Mapping[int, float]:
    """Return how many matchups each contestant won: of each pair, whoever won more comparisons, one half each when neither did.

    The order in which a judge saw the two does not matter. Who was never compared is not in it.
    """
    shares: dict[tuple[int, int], list[float]] = {}
    for match in matches:
        low, high = sorted((match.first, match.second))
        shares.setdefault((low, high), []).append(match.share if match.first == low else 1.0 - match.share)
    won: dict[int, float] = {}
    for (low, high), given in shares.items():
        lead = sum(given) - len(given) / 2
        point = 0.5 if lead == 0 else float(lead > 0)
        won[low] = won.get(low, 0.0) + point
        won[high] = won.get(high, 0.0) + 1.0 - point
    return won
