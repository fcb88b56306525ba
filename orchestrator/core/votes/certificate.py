"""A certificate that a vote's leader is the most probable answer, valid whenever one looks. Pure.

For each answer m there is a wager against the claim "m is the most probable answer": on each vote
for m or for the answer that led before that vote, while m did not lead. If the claim holds, m wins
such a vote at least half the time, whoever leads, so no wager gains on the average: the capital is
a nonnegative supermartingale that begins at 1. By Ville's inequality it ever reaches 1 / error with
probability `error` at most. The vote is certified when the wagers against all answers but the
leader have, also against an answer that nobody gave yet. If the leader is then not the most
probable answer, the wager against the one that is has reached 1 / error: so the certificate is
wrong with probability `error` at most, over all looks together, and without a price for the number
of answers.

Wagers against each rival as in CITE (arXiv 2605.05873); the bet on a predictable leader as in the
Martingale Majority Certificate (arXiv 2510.17472). The stake is the mixture over a uniform prior on
the leader's share between 1/2 and 1, in closed form. (Public code of the second paper uses the
share estimated from the same votes as the stake, which is no supermartingale.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from orchestrator.core.votes.counts import beta_confidence


def certified(keys: Sequence[str], error: float) -> str | None:
    """Return the answer certified by votes in the order of their attempts, or None.

    `keys` must be independent draws: in the order of submission, not of arrival, since short
    attempts arrive first.
    """
    counts: Counter[str] = Counter()
    n_led: Counter[str] = Counter()  # votes for an answer while it led
    leader, n_confirmed = "", 0  # votes for whichever answer led at the time
    n_against: Counter[str] = Counter()  # votes for an answer while another led
    for key in keys:
        if leader:
            if key == leader:
                n_confirmed += 1
                n_led[key] += 1
            else:
                n_against[key] += 1
        counts[key] += 1
        if counts[key] > counts[leader]:
            leader = key
    if not leader:
        return None
    rivals = [key for key in counts if key != leader]
    capitals = [_capital(n_confirmed, 0)]  # against an answer that nobody gave
    capitals += [_capital(n_confirmed - n_led[key], n_against[key]) for key in rivals]
    return leader if min(capitals) >= 1.0 / error else None


def certifies(answer: str, votes: Sequence[str | None], error: float) -> bool:
    """Tell whether votes certify an answer where some are unknown (None).

    `votes` are in the order of submission. An unknown vote is that of an attempt which was stopped,
    and it may have been stopped because of what it said. Here the wagers are on one answer each,
    beginning when it was first given, and an answer that is given as the i-th has 1 / (i (i + 1))
    of the capital. Every unknown vote counts as lost. This keeps to the given error, whatever the
    stopped attempts would have answered, and whatever stopped them.
    """
    counts = Counter(votes)
    n_unknown, n_for = counts.pop(None, 0), counts.pop(answer, 0)
    if not n_for:
        return False
    before = votes[: votes.index(answer)]
    rank = 1 + before.count(None) + len({*before} - {None})  # at most
    n_against = n_unknown + max(counts.values(), default=0)
    return _capital(n_for - 1, n_against) >= rank * (rank + 1) / error


@lru_cache(maxsize=65_536)  # the same few counts recur in every problem
def _capital(n_won: int, n_lost: int) -> float:
    """Return the mean of (2q)^won (2(1 - q))^lost over q uniform between 1/2 and 1."""
    n = n_won + n_lost
    # 2^n times the incomplete beta integral above 1/2, over the width 1/2
    integral = beta_confidence(n_won, n_lost) / ((n + 1) * math.comb(n, n_won))
    return float(2.0 ** (n + 1) * integral)
