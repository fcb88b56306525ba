"""The contract of similarities: one score per pair, of that pair alone, the same whichever prefix comes
first; and determinism.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.protocols import Pair, Similarity
from orchestrator.core.steps import Next, Submit
from orchestrator.core.values import Capability, Finish, Prefix, Problem, Purpose, Request, Trace
from orchestrator.testing.pools import PROBLEM, trace
from orchestrator.testing.rules import check_value, no_global_randomness, require

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
    """Check the contract of a similarity on pairs of prefixes of every kind, those of `texts` among
    them.

    One that asks a model is given replies that its requests decide, some failed, some without what
    it asked for.
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
        turned = _scores(similarity, problem, [(b, a) for a, b in pairs])
        if not _asks(similarity, problem, pairs):
            _require_close(scores, turned, "symmetric", "a pair turned round is scored otherwise")
        _scores(similarity, problem, pairs, spoiled=True)


def _require_close(
    one: Sequence[float | None], other: Sequence[float | None], rule: str, remedy: str
) -> None:
    for a, b in zip(one, other, strict=True):
        close = a == b if a is None or b is None else abs(a - b) < _TOLERANCE
        require(close, rule, f"{a} and {b}: {remedy}")


def _asks(similarity: Similarity, problem: Problem, pairs: Sequence[Pair]) -> bool:
    try:
        next(similarity.score(problem, pairs))
    except StopIteration:
        return False
    return True


def _scores(
    similarity: Similarity, problem: Problem, pairs: Sequence[Pair], spoiled: bool = False
) -> list[float | None]:
    """Return a similarity's scores, its requests answered by what is in them; `spoiled` replies carry
    nothing or have failed.
    """
    before = copy.deepcopy(pairs)
    steps = similarity.score(problem, pairs)
    waiting: dict[int, Request] = {}
    n_started = 1000
    try:
        command = next(steps)
        while True:
            if isinstance(command, Submit):
                _check_requests(similarity, command.requests)
                fresh = dict(enumerate(command.requests, n_started))
                n_started += len(fresh)
                waiting |= fresh
                command = steps.send(tuple(fresh))
            elif isinstance(command, Next):
                among = waiting.keys() if command.among is None else command.among & waiting.keys()
                require(
                    bool(among), "waits for what it asked", f"{command} while {sorted(waiting)} run"
                )
                ordinal = min(among)
                command = steps.send(_reply(ordinal, waiting.pop(ordinal), spoiled))
            else:
                command = steps.send(None)
    except StopIteration as end:
        scores: Any = end.value
    require(pairs == before, "pure", "it changed the pairs")
    well_made = isinstance(scores, list) and len(scores) == len(pairs)
    require(
        well_made,
        "one score per pair",
        f"{scores!r:.200} for {len(pairs)} pairs; return a list, in order",
    )
    sound = all(s is None or (isinstance(s, float) and 0.0 <= s <= 1.0) for s in scores)
    require(sound, "scores", f"{scores!r:.200}: floats in [0, 1], None where it cannot tell")
    return list(scores)


def _check_requests(similarity: Similarity, requests: Sequence[Request]) -> None:
    require(
        all(r.purpose is Purpose.COMPARE for r in requests),
        "purpose",
        "its requests are charged to `Purpose.COMPARE`; say so",
    )
    needs: frozenset[Capability] = getattr(similarity, "needs", frozenset())
    missing = any(r.metrics for r in requests) and Capability.LOGPROBS not in needs
    require(
        not missing, "needs", "its requests ask for metrics; list `Capability.LOGPROBS` in `needs`"
    )


def _reply(ordinal: int, request: Request, spoiled: bool) -> Trace:
    rng = random.Random(repr((request.prompt, request.suffix)))
    if spoiled:
        return trace(
            ordinal,
            None,
            finish=rng.choice((Finish.FAILED, Finish.STOP, Finish.CANCELLED)),
            purpose=request.purpose,
        )
    made = trace(
        ordinal,
        None,
        metrics={name: -5 * rng.random() for name in request.metrics},
        purpose=request.purpose,
    )
    # an embedding, to who asks for one
    return replace(made, values=tuple(rng.uniform(-1, 1) for _ in range(4)))
