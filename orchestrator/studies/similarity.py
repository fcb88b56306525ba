"""The quality of a similarity: pairs of prefixes of finished traces, scored on held-out problems.

A "positive" is a pair with the same final answer, as in DeepPrune (arXiv 2510.08483). Intervals are
bootstraps over problems, because the pairs of one problem are not independent. Similarities are
loaded by name and no engine is started. A similarity that queries a model is measured by a job.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.lineage import lineage, output_tokens, whole_text
from orchestrator.core.protocols import Similarity
from orchestrator.core.session import prepared_prompt
from orchestrator.core.values import Finish, PluginSpec, Prefix, Problem, Purpose, Trace, changed
from orchestrator.jobs.finished import read_finished
from orchestrator.kit.prefixes import LabelledPrefix, opening, scores_without_engine
from orchestrator.plan import registry
from orchestrator.studies.estimates import (
    Estimate,
    Table,
    mean_estimate,
    resample_counts,
    resampled_estimate,
)

Pools: TypeAlias = Mapping[str, tuple[Problem, Sequence[LabelledPrefix]]]
_N_RESAMPLES = 2000
FALSE_NEGATIVE_RATE = 0.2  # DeepPrune's operating point


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a prefix: after `n_words` of `words` or `n_tokens` tokens, whichever comes first.

    0 means no limit.
    """

    n_words: int
    words: tuple[str, ...]
    n_tokens: int = 0

    def prefix(self, text: str, n_tokens: int) -> str:
        """Return the prefix of a whole text of `n_tokens` tokens, assumed to be equally long."""
        cut = (
            text[: len(text) * self.n_tokens // n_tokens] if 0 < self.n_tokens < n_tokens else text
        )
        return opening(cut, self.words, self.n_words) if self.n_words else cut


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a similarity on `n_pairs` pairs, `n_same` of which agree.

    `auroc` is over all pairs. `within` is the mean over problems with both kinds of pairs, or None
    if there are no such problems. `tnr` is the share of differing pairs that are recognised as
    different when a fifth of the agreeing pairs are misclassified as different; `tau` is the score
    threshold at that point. A pair without a score ranks lowest.
    """

    n_pairs: int
    n_same: int
    auroc: Estimate
    within: Estimate | None
    tnr: Estimate
    tau: float


def labelled_prefixes(traces: Iterable[Trace], cut: Cut) -> list[LabelledPrefix]:
    """Return the prefixes of the attempts in a pool that ended by themselves with an answer.

    An attempt that is no longer than its prefix is left out.
    """
    by_ordinal = {t.ordinal: t for t in traces}
    continued = {t.parent for t in by_ordinal.values() if t.purpose is Purpose.SOLVE}
    examples = []
    for ordinal, last in sorted(by_ordinal.items()):
        if last.purpose is not Purpose.SOLVE or ordinal in continued:
            continue
        if last.answer is None or last.finish is not Finish.STOP:
            continue
        links = lineage(last, by_ordinal)
        text = whole_text(links)
        prefix = cut.prefix(text, output_tokens(links))
        if len(prefix) < len(text):
            examples.append(LabelledPrefix(Prefix(ordinal, prefix), last.answer.key))
    return examples


def job_prefixes(path: Path, cut: Cut) -> dict[str, tuple[Problem, list[LabelledPrefix]]]:
    """Return the labelled prefixes of a job directory, or of its journal.db, by job and problem.

    Pools of different jobs stay separate, because answer classes are defined within a job. The
    problem id identifies pools of the same problem. Raises PlanError when there is no job.
    """
    job = read_finished(path)
    problems, _ = job.problems()
    pools = {}
    for id in job.results:
        pool = labelled_prefixes(job.pools[id], cut)
        if len(pool) > 1:
            problem = problems[id]
            if problem.prompt:  # as live similarities receive it
                problem = changed(problem, prompt=prepared_prompt(problem, job.plan))
            pools[f"{job.directory.resolve()}: {id}"] = (problem, pool)
    return pools


def cross_fitted(
    name: str, pools: Pools, n_folds: int = 5, scored_by: str = ""
) -> dict[str, list[float | None]]:
    """Return each problem's scores by similarities fitted on the other folds of problems.

    Pairs are in the order of `combinations`. `scored_by` names another similarity that reads the
    same model file; "" means the fitted similarity itself.
    """
    ids = sorted({problem.id for problem, _ in pools.values()})
    scores: dict[str, list[float | None]] = {}
    for fold in range(n_folds):
        apart = set(ids[fold::n_folds])
        held_out = {key: pool for key, pool in pools.items() if pool[0].id in apart}
        text = fit(name, {key: pool for key, pool in pools.items() if pool[0].id not in apart})
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            similarity = registry.load(
                "similarity", PluginSpec(scored_by or name, {"file": file.name})
            )
            scores |= scores_of_pairs(similarity, held_out)
    return scores


def fit(name: str, pools: Pools) -> str:
    """Return the text of the model file of a similarity fitted on these pools.

    Raises PluginError when the similarity cannot be trained, and PlanError when fitting on these
    pools fails.
    """
    cls: Any = registry.plugin_class("similarity", name)
    if not hasattr(cls, "fit"):
        trainable = [
            other
            for other in registry.names("similarity")
            if hasattr(registry.plugin_class("similarity", other), "fit")
        ]
        raise PluginError(
            f"similarity {name!r} cannot be trained; those that can: {', '.join(trainable)}"
        )
    try:
        return str(cls.fit(pools))
    except ValueError as error:
        raise PlanError(f"similarity {name!r} cannot be fitted: {error}") from error


def scores_of_pairs(similarity: Similarity, pools: Pools) -> dict[str, list[float | None]]:
    """Return a similarity's scores for each problem's pairs, in the order of `combinations`."""
    return {
        id: scores_without_engine(
            similarity, problem, [(a.prefix, b.prefix) for a, b in combinations(pool, 2)]
        )
        for id, (problem, pool) in pools.items()
    }


def quality(scores: Mapping[str, Sequence[float | None]], pools: Pools) -> Quality:
    """Return how well the scores separate pairs that agree from pairs that differ.

    Raises PlanError unless there are pairs of both kinds.
    """
    ids = sorted({problem.id for problem, pool in pools.values() if len(pool) > 1})
    rows = [
        (ids.index(problem.id), int(a.final == b.final), -1.0 if score is None else score)
        for key, (problem, pool) in pools.items()
        for (a, b), score in zip(combinations(pool, 2), scores[key], strict=True)
    ]
    n_same = sum(same for _, same, _ in rows)
    if n_same in (0, len(rows)):
        raise PlanError(
            f"{len(rows)} pairs, {n_same} of which agree: "
            "both kinds are needed to measure a similarity"
        )
    levels, places = np.unique([score for *_, score in rows], return_inverse=True)
    counts = np.zeros((len(ids), 2, len(levels)))  # per problem: [differ, agree], by score
    for (id, same, _), place in zip(rows, places, strict=True):
        counts[id, same, place] += 1
    whole = counts.sum(axis=0)
    resamples = [
        resample
        for batch in resample_counts(len(ids), _N_RESAMPLES)
        for weights in batch
        if (resample := np.tensordot(weights, counts, 1)).sum(axis=1).all()
    ]
    within = [_auroc(row) for row in counts if row.sum(axis=1).all()]
    tnr, level = _tnr(whole)
    return Quality(
        len(rows),
        n_same,
        resampled_estimate(_auroc(whole), [_auroc(c) for c in resamples], len(ids)),
        mean_estimate(within) if within else None,
        resampled_estimate(tnr, [_tnr(c)[0] for c in resamples], len(ids)),
        float(levels[level]),
    )


# Both are computed from counts by score, which each resample only reweights. This takes a hundredth
# of the time of scikit-learn's roc_curve, which sorts the pairs each time. The tests compare both.


def _auroc(counts: Table) -> float:
    """Return P(score of an agreeing pair > score of a differing pair) + P(equal) / 2.

    Counts have shape (2, n_levels).
    """
    differ, agree = counts
    below = np.cumsum(differ) - differ
    return float((agree * (below + differ / 2)).sum() / (agree.sum() * differ.sum()))


def _tnr(counts: Table) -> tuple[float, int]:
    """Return the share of differing pairs below the operating point, and its level.

    The operating point is the highest level with at most a fifth of the agreeing pairs below it.
    """
    differ, agree = counts
    below = np.cumsum(agree) - agree
    level = int(np.flatnonzero(below <= FALSE_NEGATIVE_RATE * agree.sum())[-1])
    return float(differ[:level].sum() / differ.sum()), level
