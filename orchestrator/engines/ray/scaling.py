"""Decides how many replicas a pool should have, by its requests in flight. Pure: time is given.

The rule is that of Kubernetes' horizontal autoscaler with its stabilisation windows: a pool grows
to the smallest number that was needed throughout `up_seconds`, and shrinks to the largest that was
needed within `idle_seconds`. So a burst starts no replica, and a short lull ends none.
"""

from __future__ import annotations

import math
from collections import deque

from orchestrator.engines.ray.pools import Replicas


class Scaling:
    """The numbers of replicas that one pool has needed lately."""

    def __init__(self, replicas: Replicas) -> None:
        """Keep within these bounds."""
        self._replicas = replicas
        self._needs: deque[tuple[float, int]] = deque()  # (seconds, replicas), oldest first

    def wanted(self, now: float, n_requests: int, n_replicas: int) -> int:
        """Return the number of replicas to have, given that there are `n_replicas`.

        To be called every second or so; `now` in seconds never decreases.
        """
        replicas = self._replicas
        need = math.ceil(n_requests / replicas.requests)
        self._needs.append((now, min(replicas.max, max(replicas.min, need))))
        # the oldest one is kept: it says what was needed when the window began
        oldest = now - max(replicas.up_seconds, replicas.idle_seconds)
        while len(self._needs) > 1 and self._needs[1][0] <= oldest:
            self._needs.popleft()
        up = min(self._since(now - replicas.up_seconds), default=0)
        down = max(self._since(now - replicas.idle_seconds), default=n_replicas)
        return up if up > n_replicas else min(down, n_replicas)

    def _since(self, began: float) -> list[int]:
        """Return what was needed since a time; [] if that is not known for all of it."""
        if self._needs[0][0] > began:
            return []
        before = [need for at, need in self._needs if at <= began]
        return before[-1:] + [need for at, need in self._needs if at > began]
