"""How good a similarity is: pairs of prefixes of finished traces, and what a similarity makes of them, on
problems it was not fitted on.

"Positive" is a pair that comes to the same answer, as in DeepPrune (arXiv 2510.08483). Intervals
are bootstraps over problems, whose pairs are anything but independent. It loads similarities by name and
starts no engine: a similarity that asks a model is measured by a job.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.protocols import Similarity
from orchestrator.core.session import prepared_prompt
from orchestrator.core.values import Finish, PluginSpec, Prefix, Problem, Purpose, Trace, changed
from orchestrator.jobs.finished import read_finished
from orchestrator.kit.prefixes import Labelled, answered, opening
from orchestrator.plan import registry
from orchestrator.studies.evaluate import CONFIDENCE, Estimate, mean_estimate

Pools: TypeAlias = Mapping[str, tuple[Problem, Sequence[Labelled]]]
_N_RESAMPLES = 2000
FALSE_NEGATIVE_RATE = 0.2  # DeepPrune's operating point


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a prefix ends: after `n_words` reasoning words, and at `n_tokens` tokens if that comes
    first; 0 is no such end.
    """

    n_words: int
    words: tuple[str, ...]
    n_tokens: int = 0

    def prefix(self, text: str, n_tokens: int) -> str:
        """Return the prefix of a whole text of `n_tokens` tokens, taken as equally long."""
        cut = (
            text[: len(text) * self.n_tokens // n_tokens] if 0 < self.n_tokens < n_tokens else text
        )
        return opening(cut, self.words, self.n_words) if self.n_words else cut


@dataclass(frozen=True, slots=True)
class Quality:
    """A similarity on `n_pairs` pairs, `n_same` of which agree.

    `auroc` is over all pairs; `within` is the mean over problems with both kinds, None without any.
    `tnr` is the share of the pairs that differ which the similarity tells when it takes a fifth of those
    that agree for different; `tau` is the score at which that happens. A pair of which it can tell
    nothing counts as the worst score.
    """

    n_pairs: int
    n_same: int
    auroc: Estimate
    within: Estimate | None
    tnr: Estimate
    tau: float


def labelled(traces: Iterable[Trace], cut: Cut) -> list[Labelled]:
    """Return the prefixes of a pool's attempts that ended by themselves with an answer, and that go
    on beyond the prefix.
    """
    by_ordinal = {t.ordinal: t for t in traces}
    continued = {t.parent for t in by_ordinal.values() if t.purpose is Purpose.SOLVE}
    found = []
    for ordinal, last in sorted(by_ordinal.items()):
        if (
            last.purpose is not Purpose.SOLVE
            or ordinal in continued
            or last.answer is None
            or last.finish is not Finish.STOP
        ):
            continue
        text, n_tokens = "", 0
        link: Trace | None = last
        while link is not None:
            text, n_tokens = link.text + text, n_tokens + link.usage.output_tokens
            link = None if link.parent is None else by_ordinal.get(link.parent)
        prefix = cut.prefix(text, n_tokens)
        if len(prefix) < len(text):
            found.append(Labelled(Prefix(ordinal, prefix), last.answer.key))
    return found


def journal_pools(path: Path, cut: Cut) -> dict[str, tuple[Problem, list[Labelled]]]:
    """Return the labelled prefixes of a job directory, or of its journal.db, by job and problem;
    PlanError when there is no job.

    Pools of several jobs stay apart, because answers are classed within a job; a problem's id says
    what belongs to one problem.
    """
    job = read_finished(path)
    problems, _ = job.problems()
    pools = {}
    for id in job.results:
        pool = labelled(job.pools[id], cut)
        if len(pool) > 1:
            problem = problems[id]
            if problem.prompt:  # as live similarities see it
                problem = changed(problem, prompt=prepared_prompt(problem, job.plan))
            pools[f"{job.directory.resolve()}: {id}"] = (problem, pool)
    return pools


def cross_fitted(
    name: str, pools: Pools, n_folds: int = 5, scored_by: str = ""
) -> dict[str, list[float | None]]:
    """Return each problem's scores, pairs in the order of `combinations`, by similarities fitted on the
    other folds of problems.

    `scored_by` names another judge that reads the same model file ("": the one that is fitted).
    """
    ids = sorted({problem.id for problem, _ in pools.values()})
    scores: dict[str, list[float | None]] = {}
    for fold in range(n_folds):
        apart = set(ids[fold::n_folds])
        held_out = {key: pool for key, pool in pools.items() if pool[0].id in apart}
        text = fitted(name, {key: pool for key, pool in pools.items() if pool[0].id not in apart})
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            similarity = registry.load(
                "similarity", PluginSpec(scored_by or name, {"file": file.name})
            )
            scores |= scores_of_pairs(similarity, held_out)
    return scores


def fitted(name: str, pools: Pools) -> str:
    """Return the text of the model file that a similarity fits on these pools; PlanError when it cannot
    be fitted, on these or at all.
    """
    cls: Any = registry.plugin_class("similarity", name)
    if not hasattr(cls, "fit"):
        raise PluginError(
            f"judge {name!r} is not one that learns; there are: {', '.join(learners())}"
        )
    try:
        return str(cls.fit(pools))
    except ValueError as error:
        raise PlanError(f"judge {name!r} cannot be fitted: {error}") from error


def learners() -> list[str]:
    """Return the names of the similarities that can be fitted."""
    return [
        name
        for name in registry.names("similarity")
        if hasattr(registry.plugin_class("similarity", name), "fit")
    ]


def scores_of_pairs(similarity: Similarity, pools: Pools) -> dict[str, list[float | None]]:
    """Return a similarity's scores of each problem's pairs, in the order of `combinations`."""
    return {
        id: answered(similarity, problem, [(a.prefix, b.prefix) for a, b in combinations(pool, 2)])
        for id, (problem, pool) in pools.items()
    }


def quality(scores: Mapping[str, Sequence[float | None]], pools: Pools) -> Quality:
    """Return how well scores tell pairs that agree from pairs that differ.

    PlanError unless there are both.
    """
    keys = [key for key, (_, pool) in pools.items() if len(pool) > 1]
    ids = sorted({pools[key][0].id for key in keys})
    same = {
        key: np.asarray([a.final == b.final for a, b in combinations(pools[key][1], 2)])
        for key in keys
    }
    values = {key: np.asarray([-1.0 if s is None else s for s in scores[key]]) for key in keys}
    n_pairs, n_same = sum(map(len, same.values())), int(sum(s.sum() for s in same.values()))
    if n_same in (0, n_pairs):
        raise PlanError(
            f"{n_pairs} pairs, {n_same} of which agree: both kinds are needed to measure a similarity"
        )
    levels = np.unique(np.concatenate(list(values.values())))
    counts = np.zeros((len(ids), 2, len(levels)))  # of each problem, [differ, agree], by score
    for key in keys:
        np.add.at(
            counts[ids.index(pools[key][0].id)],
            (same[key].astype(int), np.searchsorted(levels, values[key])),
            1,
        )
    mixed = [row for row in counts if row.sum(axis=1).all()]
    draws = np.random.default_rng(0).multinomial(
        len(ids), np.full(len(ids), 1 / len(ids)), size=_N_RESAMPLES
    )
    pooled = [counts.sum(axis=0), *(np.tensordot(w, counts, 1) for w in draws)]
    pooled = [c for c in pooled if c.sum(axis=1).all()]
    aurocs, rates = [_auroc(c) for c in pooled], [_tnr(c) for c in pooled]
    each = np.asarray([_auroc(c) for c in mixed])
    return Quality(
        n_pairs,
        n_same,
        _estimate(aurocs, len(ids)),
        mean_estimate([float(a) for a in each]) if len(each) else None,
        _estimate([rate for rate, _ in rates], len(ids)),
        float(levels[rates[0][1]]),
    )


def _auroc(counts: npt.NDArray[np.float64]) -> float:
    """Return P(score of a pair that agrees > of one that differs) + P(equal) / 2, from counts of
    shape (2, n_levels).
    """
    differ, agree = counts
    below = np.cumsum(differ) - differ
    return float((agree * (below + differ / 2)).sum() / (agree.sum() * differ.sum()))


def _tnr(counts: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Return the share of pairs that differ below the highest level under which at most a fifth of
    those that agree lie, and the level.
    """
    differ, agree = counts
    below = np.cumsum(agree) - agree
    level = int(np.flatnonzero(below <= FALSE_NEGATIVE_RATE * agree.sum())[-1])
    return float(differ[:level].sum() / differ.sum()), level


def _estimate(values: Sequence[float] | npt.NDArray[np.float64], n: int) -> Estimate:
    """Return the first value with the interval of the others, which are its resamples."""
    first, rest = float(values[0]), np.asarray(values[1:])
    if n < 2 or not len(rest):
        return Estimate(first, None, None, n)
    low, high = np.quantile(rest, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(first, float(low), float(high), n)
