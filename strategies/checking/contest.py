"""Which candidates verdicts favour, and who wins a contest of comparisons.

Sample, Scrutinize and Scale (arXiv 2502.01839), Algorithm 1. Pure functions over a pool's verdicts,
used twice: by the strategy, to decide what to compare, and by the selector, to rank the finished
pool. Both therefore come to the same view, also when a pool is read again later.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.values import Purpose, Trace
from orchestrator.core.votes import voters
from orchestrator.kit.verdicts import Comparison, opinions

TIE_BAND = 0.05  # Algorithm 1, line 9
MAX_TIED = 3  # section 3.1: the three highest scoring candidates
_ROUNDING = (
    1e-9  # .95 - .05 is not .9 in floating point; a band is closed, so its edge belongs to it
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attempt with an answer and verdicts: the mean of its verdicts and how many there are."""

    ordinal: int
    key: str
    mean: float
    n_verdicts: int


def candidates(traces: Sequence[Trace]) -> list[Candidate]:
    """Return the candidates of a pool that have verdicts, best first.

    By mean, then number of verdicts, then the lower ordinal. A candidate with at most half as many
    verdict requests as the one with most was dropped after preliminary scoring: it is left out,
    because a few lucky verdicts would otherwise beat many.
    """
    verdicts = opinions(traces)
    n_requests = Counter(
        t.subjects[0] for t in traces if t.purpose is Purpose.VERIFY and len(t.subjects) == 1
    )
    most = max(n_requests.values(), default=0)
    pool = []
    for trace in voters(traces):
        own = verdicts.get(trace.ordinal)
        if own and trace.answer is not None and 2 * n_requests[trace.ordinal] > most:
            pool.append(Candidate(trace.ordinal, trace.answer.key, sum(own) / len(own), len(own)))
    return sorted(pool, key=lambda c: (-c.mean, -c.n_verdicts, c.ordinal))


def tied(
    ranked: Sequence[Candidate], band: float = TIE_BAND, limit: int = MAX_TIED
) -> list[Candidate]:
    """Return the candidates to compare: the best one of each answer within the tie band.

    Only the `limit` best count, and only means within `band` of the best. Fewer than two answers
    need no comparison: then it is [].
    """
    best: dict[str, Candidate] = {}
    for candidate in ranked[:limit]:
        if candidate.mean >= ranked[0].mean - band - _ROUNDING:
            best.setdefault(candidate.key, candidate)
    return list(best.values()) if len(best) > 1 else []


def matchups_won(matches: Iterable[Comparison]) -> Mapping[int, float]:
    """Return how many matchups each contestant won.

    The winner of a pair has won more comparisons; one half each when neither has. The order in
    which a judge saw the two does not matter. What was never compared is not included.
    """
    shares: dict[tuple[int, int], list[float]] = {}
    for match in matches:
        low, high = sorted((match.first, match.second))
        shares.setdefault((low, high), []).append(
            match.share if match.first == low else 1.0 - match.share
        )
    won: dict[int, float] = {}
    for (low, high), of_low in shares.items():
        lead = sum(of_low) - len(of_low) / 2
        point = 0.5 if lead == 0 else float(lead > 0)
        won[low] = won.get(low, 0.0) + point
        won[high] = won.get(high, 0.0) + 1.0 - point
    return won
