"""How much another attempt at a problem is worth to a job that cannot afford all of them.

The one rule: a number by which the open problems of a job are ordered, a pure function of what has
arrived. It is no probability, and it is compared only with the worth of other problems. Not
covered: which problem gets the next attempt (`orchestrator.runtime.driver`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from orchestrator.core.values import Finish, Trace
from orchestrator.core.votes import VOTING, beta_confidence

# as in `sounding`: chosen on recorded traces (benchmarks/README.md)
_SHARE_POWER = 0.25
_PAID_POWER = 0.5


def vote_worth(traces: Sequence[Trace], n_started: int = 0) -> float:
    """Return the worth of another attempt, by the votes so far; infinite for the first attempt.

    `n_started` attempts run without any trace so far. Attempts that have not ended are assumed to
    agree with the leader.
    """
    attempts = [t for t in traces if t.purpose in VOTING]
    n_paid = sum(t.parent is None for t in attempts) + n_started
    n_open = n_paid - sum(t.finish is not Finish.RULE for t in attempts)
    counts = Counter(t.answer.key for t in attempts if t.answer is not None)
    first, second = ([n for _, n in counts.most_common(2)] + [0, 0])[:2]
    leading = first + max(0, n_open)
    upset = 1.0 - beta_confidence(leading, second)
    return decision_worth(upset, leading, counts.total() + max(0, n_open), n_paid)


def decision_worth(upset: float, leading: float, total: float, n_paid: float) -> float:
    """Return the worth of another attempt at a vote.

    It is the probability of an upset, times a power of the leader's share of the votes, over the
    root of the attempts paid for: the more a question has had, the less likely it is that still
    more of them decide it. A question with `leading` of `total` votes is so compared with others by
    one price that all questions of a job share.
    """
    if not n_paid:
        return math.inf
    share = leading / total if total else 1.0
    return float(upset * share**_SHARE_POWER / n_paid**_PAID_POWER)
