"""An open endpoint: what it may take now by its rates, and whether it is avoided. Sends nothing.

An endpoint that refuses a request rests: for as long as it requests, else for half a second, twice
as long each time. Then one request tries it, and others follow once that one is accepted. The one
rule: a refusal of a request that was sent before the last rest began says nothing new.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.core.errors import Unavailable
from orchestrator.core.values import Request
from orchestrator.engines.supervised import FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS

if TYPE_CHECKING:
    from orchestrator.engines.openai.engine import HttpEngine

_MINUTE = 60.0
ROUNDING = 1e-9  # of sums of floats: a wait that was computed exactly must be enough


class TokenBucket:
    """A rate that is kept evenly: at most a sixtieth of a minute's amount, or 1, is saved up.

    An amount may be larger than that: it is taken from a full bucket, which is then in debt.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        """Start full."""
        self._per_second = per_minute / _MINUTE
        self._most = max(1.0, self._per_second)
        self._level, self._at = self._most, now

    def seconds_until(self, amount: float, now: float) -> float:
        """Return the time until an amount may be taken; 0 if it may be now."""
        self._fill(now)
        missing = min(amount, self._most) - self._level
        return missing / self._per_second if missing > ROUNDING else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take an amount; a negative one is given back."""
        self._fill(now)
        self._level = min(self._most, self._level - amount)

    def _fill(self, now: float) -> None:
        self._level = min(self._most, self._level + (now - self._at) * self._per_second)
        self._at = now


@dataclass(frozen=True, slots=True)
class Entry:
    """The admission of a request: what it has reserved, and after which rest it was sent."""

    tokens: int
    n_rests: int


class RunningEndpoint:
    """One endpoint of an engine with its requests in flight; times are of one clock."""

    def __init__(self, engine: HttpEngine, now: float) -> None:
        """Start idle."""
        self.engine = engine
        self.n_running = 0
        self.rests_until = now
        self.requested_until = math.inf  # the rest that it requested; infinite if it requested none
        self.is_exhausted = False  # refuses until somebody acts
        self.rejection = ""  # why it is given up: it rejects every request
        options = engine.options
        self._most = options.max_in_flight
        rates = (options.requests_per_minute, options.tokens_per_minute)
        self._requests, self._tokens = (TokenBucket(n, now) if n else None for n in rates)
        self._n_rests = 0
        self._n_in_a_row = 0  # refusals since a request was last accepted
        self._is_tried = False  # by one request, after a rest

    @property
    def load(self) -> float:
        """The share of its places that is taken; without a limit, the requests in flight."""
        return self.n_running / (self._most or 1)

    @property
    def is_limited(self) -> bool:
        """Whether it has a limit on requests in flight."""
        return self._most is not None

    def serves(self, request: Request) -> bool:
        """Tell whether it is able to serve a request at all."""
        return not self.engine.unservable(request)

    def is_avoided(self, now: float) -> bool:
        """Tell whether others are to be preferred: it rests, or one request tries it."""
        return self._n_in_a_row > 0 and (self._is_tried or now < self.rests_until - ROUNDING)

    def seconds_until_free(self, tokens: int, now: float) -> float:
        """Return the time until its rates admit a request; infinite while its places are taken."""
        if self._most is not None and self.n_running >= self._most:
            return math.inf
        needs = ((self._requests, 1), (self._tokens, tokens))
        return max((b.seconds_until(n, now) for b, n in needs if b is not None), default=0.0)

    def enter(self, tokens: int, now: float) -> Entry:
        """Admit a request; follow with one `leave`."""
        self.n_running += 1
        self._is_tried = self._n_in_a_row > 0
        for bucket, amount in ((self._requests, 1), (self._tokens, tokens)):
            if bucket is not None:
                bucket.take(amount, now)
        return Entry(tokens, self._n_rests)

    def leave(self, entry: Entry, used_tokens: int, now: float) -> None:
        """Count a request as no longer in flight, and give back what it did not use."""
        self.n_running -= 1
        if entry.n_rests == self._n_rests:
            self._is_tried = False
        if self._tokens is not None:
            self._tokens.take(used_tokens - entry.tokens, now)

    def accepted(self, entry: Entry) -> None:
        """Count a request as accepted: the endpoint serves."""
        if entry.n_rests == self._n_rests:
            self._n_in_a_row, self._is_tried, self.is_exhausted = 0, False, False

    def refused(self, entry: Entry, error: Unavailable, now: float) -> None:
        """Count a refusal: the endpoint rests."""
        seconds = error.retry_after_seconds
        if entry.n_rests == self._n_rests:
            self._n_rests += 1
            self._n_in_a_row += 1
            self._is_tried, self.is_exhausted = False, error.exhausted
            self.requested_until = math.inf
            longest = min(self._n_in_a_row - 1, 16)
            rest = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**longest)
            self.rests_until = now + (LAST_BACKOFF_SECONDS if error.exhausted else rest)
        if seconds is not None:
            known = self.requested_until if math.isfinite(self.requested_until) else now
            self.rests_until = self.requested_until = max(known, now + seconds)
