"""The contract of similarities: one score per pair, from that pair alone, in either order.

A similarity that queries a model may depend on the order within a pair. Not checked: the quality of
scores.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Pair, Similarity
from orchestrator.core.session import Session
from orchestrator.core.steps import Routine, Steps
from orchestrator.core.values import Capability, Finish, Prefix, Problem, Purpose, Request, Trace
from orchestrator.testing.rules import (
    check_needs,
    check_value,
    model_pools,
    no_global_randomness,
    require,
)
from orchestrator.testing.scripted.pools import PROBLEM, trace
from orchestrator.testing.scripted.simulation import record

_TEXTS = (
    "",
    "Let me see.",
    "So 17 + 25 = 42.",
    "So 17 + 25 = 32, but wait.",
    "🙂" * 40,
    "\x00{first}{",
    "word " * 500,
)
_TOLERANCE = 1e-9


def check_similarity(
    similarity: Similarity, *, problem: Problem = PROBLEM, texts: Sequence[str] = ()
) -> None:
    """Check the contract of a similarity on pairs of prefixes of every kind, including `texts`.

    A similarity that queries a model first receives replies that depend on its requests, then
    replies that failed or lack the requested metrics.
    """
    check_value(similarity)
    keys = itertools.cycle(("41", "42", None))
    prefixes = [
        Prefix(ordinal, text, key)
        for (ordinal, text), key in zip(enumerate((*texts, *_TEXTS)), keys, strict=False)
    ]
    pairs = list(itertools.combinations(prefixes, 2))
    with no_global_randomness():
        scores = _scores(similarity, problem, pairs)
        require(
            scores == _scores(pickle.loads(pickle.dumps(similarity)), problem, pairs),
            "deterministic",
            "the same pairs, other scores",
        )
        require(
            _scores(similarity, problem, []) == [],
            "vectorised",
            "no pairs have no scores; return []",
        )
        alone = [score for pair in pairs for score in _scores(similarity, problem, [pair])]
        _require_close(
            scores,
            alone,
            "a pair alone",
            "its score must not depend on the other pairs of the call",
        )
        asks = Routine(similarity.score(problem, pairs), "score").send(None) is not None
        turned = _scores(similarity, problem, [(b, a) for a, b in pairs])
        if not asks:
            _require_close(scores, turned, "symmetric", "a pair turned round is scored otherwise")
        _scores(similarity, problem, pairs, spoiled=True)


def _require_close(
    one: Sequence[float | None], other: Sequence[float | None], rule: str, remedy: str
) -> None:
    for a, b in zip(one, other, strict=True):
        close = a == b if a is None or b is None else abs(a - b) < _TOLERANCE
        require(close, rule, f"{a} and {b}: {remedy}")


@dataclass(slots=True, eq=False)
class _Scoring:
    """A similarity's generator over pairs, wrapped as a strategy for a Session."""

    similarity: Similarity
    pairs: Sequence[Pair]
    scores: object = None

    def explore(self, problem: Problem, rng: object) -> Steps:
        """Score the pairs."""
        self.scores = yield from self.similarity.score(problem, self.pairs)


def _scores(
    similarity: Similarity, problem: Problem, pairs: Sequence[Pair], spoiled: bool = False
) -> list[float | None]:
    """Return a similarity's scores; `spoiled` replies are empty or failed."""
    before = copy.deepcopy(pairs)
    scoring = _Scoring(similarity, pairs)
    session = Session(problem, scoring, Plan(models=model_pools(similarity)))
    recording = record(session, lambda request: _reply(request, spoiled), None)
    _check_requests(similarity, recording.requests)
    require(not session.error, "raises nothing", session.error)
    scores: Any = scoring.scores
    require(pairs == before, "pure", "it changed the pairs")
    well_formed = isinstance(scores, list) and len(scores) == len(pairs)
    require(
        well_formed,
        "one score per pair",
        f"{scores!r:.200} for {len(pairs)} pairs; return a list, in order",
    )
    in_range = all(s is None or (isinstance(s, float) and 0.0 <= s <= 1.0) for s in scores)
    require(in_range, "scores", f"{scores!r:.200}: floats in [0, 1], None where it cannot tell")
    return list(scores)


def _check_requests(similarity: Similarity, requests: Sequence[Request]) -> None:
    require(
        all(r.purpose is Purpose.COMPARE for r in requests),
        "purpose",
        "its requests must have `purpose=Purpose.COMPARE`",
    )
    needs: frozenset[Capability] = getattr(similarity, "needs", frozenset())
    check_needs(needs, requests, getattr(similarity, "tasks", ()))


def _reply(request: Request, spoiled: bool) -> Trace:
    """Return a reply that depends on the request's text."""
    rng = random.Random(repr((request.prompt, request.suffix)))
    if spoiled:
        finish = rng.choice((Finish.FAILED, Finish.STOP, Finish.CANCELLED))
        return trace(request.ordinal, None, finish=finish)
    reply = trace(
        request.ordinal, None, metrics={name: -5 * rng.random() for name in request.metrics}
    )
    # an embedding, for a similarity that requested one
    return replace(reply, values=tuple(rng.uniform(-1, 1) for _ in range(4)))
