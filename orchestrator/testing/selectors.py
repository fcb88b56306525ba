"""The contract of selectors: a pure function of a pool in any order that counts only votes.

Its clusters are ranked by weight and the tie rule. Not checked: the quality of the weights.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.core.protocols import Selector
from orchestrator.core.values import Cluster, Finish, Purpose, Trace, Verdict
from orchestrator.core.votes import VOTING, rank
from orchestrator.plan import registry
from orchestrator.testing.rules import (
    check_value,
    metric_value,
    no_global_randomness,
    require,
    salted,
)
from orchestrator.testing.scripted.pools import pool, trace

_POOLS = (
    "A",
    "A A A",
    "A B",
    "A A B",
    "B A A B",
    "A B C D E",
    "A - B ! A",
    "! A",
    "- - A",
    "A B A C B A C A B B A A",
)
_PURE = "a selector is a pure function of the traces, whatever their order"


def check_selector(selector: Selector, *, verdicts: Sequence[str] = ()) -> None:
    """Check the contract of a selector.

    Every trace has the metrics that the selector declares, and a verdict of each named verifier.
    """
    check_value(selector)
    with no_global_randomness():
        for seed, traces in enumerate(_pools()):
            scored = [_scored(t, registry.metrics(selector), verdicts, seed) for t in traces]
            _check_pool(selector, scored, seed)
        for words in ("", "-", "- - -", "!", "! ! -"):
            scored = [_scored(t, registry.metrics(selector), verdicts, 0) for t in pool(words)]
            require(
                _ranked(selector, scored, f"over {words!r}") == [],
                "empty pool",
                f"no trace of {words!r} states an answer; return []",
            )


def _pools() -> Iterator[list[Trace]]:
    yield from map(pool, _POOLS)
    yield [
        *pool("A B B"),
        *(trace(i, "C", purpose=purpose) for i, purpose in enumerate(_NO_ATTEMPT, 3)),
    ]
    yield [
        *pool("A B B"),
        trace(3, "A", finish=Finish.CANCELLED),
        trace(4, "A", finish=Finish.LENGTH),
    ]
    yield [
        *pool("A B"),
        replace(trace(2, "C"), finish=Finish.FAILED, error="failed after it had given an answer"),
    ]
    for seed in range(20):
        rng = random.Random(seed)
        yield pool(" ".join(rng.choice("ABCD-!") for _ in range(rng.randint(1, 24))))


_NO_ATTEMPT = (Purpose.PROBE, Purpose.VERIFY, Purpose.COMPARE, Purpose.PROBE)


def _scored(trace: Trace, metrics: Sequence[str], verdicts: Sequence[str], seed: int) -> Trace:
    rng = random.Random(f"{seed} {trace.ordinal}")
    # Few different values, so that ties occur.
    values = {name: metric_value(name, rng.randint(1, 4) / 8) for name in metrics}
    return replace(
        trace,
        metrics=values,
        verdicts=tuple(Verdict(name, rng.randint(0, 4) / 4) for name in verdicts),
    )


def _check_pool(selector: Selector, traces: Sequence[Trace], seed: int) -> None:
    before = copy.deepcopy(list(traces))
    where = f"over {[t.answer.key if t.answer else t.finish.value for t in traces]}"
    clusters = _ranked(selector, traces, where)
    require(list(traces) == before, "pure", f"{where} it changed the traces; build new values")
    _check_clusters(clusters, traces, where)
    require(
        selector(traces) == clusters,
        "deterministic",
        f"{where} it ranks differently the second time; {_PURE}",
    )
    for salt in range(4):
        shuffled = [salted(t, salt) for t in traces]
        random.Random(f"{seed} {salt}").shuffle(shuffled)
        require(
            selector(shuffled) == clusters,
            "any order",
            f"{where} the ranking depends on the traces' order or on that of a set; {_PURE}",
        )
    copied = pickle.loads(pickle.dumps(selector))
    require(
        copied(traces) == clusters,
        "picklable",
        f"{where} a pickled copy ranks differently; keep all state in fields",
    )


def _ranked(selector: Selector, traces: Sequence[Trace], where: str) -> list[Cluster]:
    try:
        return selector(traces)
    except Exception as error:
        raise AssertionError(
            f"raises nothing: {error!r} {where}; a pool without votes ranks nothing, []"
        ) from error


def _check_clusters(clusters: object, traces: Sequence[Trace], where: str) -> None:
    well_formed = isinstance(clusters, list) and all(
        isinstance(c, Cluster) and c.ordinals for c in clusters
    )
    if not (isinstance(clusters, list) and well_formed):
        raise AssertionError(
            f"clusters: {where} it returned {clusters!r}; "
            "return a list of Clusters, none of them empty"
        )
    votes = {
        t.ordinal: t.answer
        for t in traces
        if t.answer and t.finish is not Finish.FAILED and t.purpose in VOTING
    }
    counted = [o for c in clusters for o in c.ordinals]
    strangers = sorted(set(counted) - votes.keys())
    require(
        not strangers,
        "counts votes only",
        f"{where} traces {strangers} voted; use `core.votes.voters(traces)`",
    )
    require(
        len(counted) == len(set(counted)),
        "one trace, one cluster",
        f"{where} a trace is in two clusters: {clusters}",
    )
    for cluster in clusters:
        require(
            list(cluster.ordinals) == sorted(cluster.ordinals),
            "ordinals ascend",
            f"{where} they do not in {cluster}; sort them",
        )
        keys = {votes[o].key for o in cluster.ordinals} | {cluster.answer.key}
        require(
            len(keys) == 1,
            "one cluster, one answer",
            f"{where} {cluster} contains the answers {sorted(keys)}; group by Answer.key",
        )
        require(
            math.isfinite(cluster.weight) and cluster.weight >= 0,
            "weights",
            f"{where} a weight is {cluster.weight!r}; make it finite and not negative",
        )
    require(
        len({c.answer.key for c in clusters}) == len(clusters),
        "one answer, one cluster",
        f"{where} an answer has two clusters",
    )
    require(
        clusters == rank(clusters),
        "ranked by the tie rule",
        f"{where} {clusters} is not in order of weight, then count, then the lower lowest ordinal; "
        "use `core.votes.rank`",
    )
