"""Compares rules that share out a job's tokens among its questions, on recorded attempts.

    python benchmarks/allocate.py [TRACES] [--seeds 20] [--only GLOB]

TRACES is as in `benchmarks/replay.py`. Attempts are taken one at a time, whole, in the same
shuffled order by all rules, and the plurality answers. A rule sees the votes and lengths so far,
never a right answer. Columns are budgets of the job, in attempts of mean length a question. The
gain of a rule is against the same number of attempts for every question; the unit of its interval
is the recording and draw. `sounding` is the per-question rule at four risks, its frontier
interpolated to the same tokens; it votes by length as well; *: not reached by all recordings, and
so not comparable along the row.

Rules: `price` is what Leadline ships (`runtime/driver/worth.py`). `greedy` takes the largest gain
in the posterior probability of the leader per token, over 1 to 8 more votes. `bandit` is the
elimination of arXiv 2506.12721 with self-consistency (round robin; the share that counts as
converged is ours: 0.8 of three votes). `prior` is `price` with the leader's risk as in the other
recordings, as an earlier job would have shown (after arXiv 2602.05395, which keeps the counts of
the first, the second and all others; the recordings of the same questions are left out). The
allocation of arXiv 2605.26849 needs the log-probabilities of a first attempt, which are not
recorded.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, gammaln

from orchestrator.core.values import PluginSpec
from orchestrator.studies.replay.experiment import Conditions, ReplaySetting, play_all
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import Recording

Floats: TypeAlias = NDArray[np.float64]
BUDGETS = np.array([2, 3, 4, 5.12, 6, 8, 12, 16])  # 5.12: 92 % less than 64
RISKS = (0.5, 0.3, 0.15, 0.06)
MOST = 64  # attempts of a question
_LARGEST = 24  # counts beyond it are as good as it in the tables of `prior`


class Job:
    """A recording's questions as one job, in several draws at once: arrays of (draw, question)."""

    def __init__(self, recording: Recording, n_draws: int) -> None:
        """Shuffle as `leadline replay` does."""
        problems = recording.problems
        n = min(MOST, *(len(p.traces) for p in problems))
        self.n_most, self.n_draws = n, n_draws
        order = np.empty((n_draws, len(problems), n), dtype=int)
        for draw in range(n_draws):
            for i, problem in enumerate(problems):
                indices = list(range(len(problem.traces)))
                random.Random(draw).shuffle(indices)
                order[draw, i] = indices[:n]
        most = max(len(p.traces) for p in problems)
        keys, lengths = (np.full((len(problems), most), fill) for fill in (-1, 0))
        n_keys = 1
        rights = []
        for i, problem in enumerate(problems):
            seen: dict[str, int] = {}
            for j, trace in enumerate(problem.traces):
                lengths[i, j] = trace.n_tokens
                if trace.answer is not None:
                    keys[i, j] = seen.setdefault(trace.answer.key, len(seen))
            n_keys = max(n_keys, len(seen))
            rights.append({seen[key] for key in problem.right or () if key in seen})
        self.right = np.zeros((len(problems), n_keys), dtype=bool)
        for i, right in enumerate(rights):
            self.right[i, list(right)] = True
        where = np.arange(len(problems))[None, :, None]
        self.keys, self.lengths = keys[where, order], lengths[where, order].astype(float)
        self.mean = float(self.lengths.mean())
        self.start()

    def start(self) -> None:
        """Take back all attempts."""
        shape = self.keys.shape[:2]
        self.n = np.zeros(shape, dtype=int)
        self.tokens = np.zeros(shape)
        self.counts = np.zeros((*shape, self.right.shape[1]), dtype=np.int16)
        self.first, self.second, self.total = (np.zeros(shape) for _ in range(3))
        self.leader = np.full(shape, -1)
        self.is_right = np.zeros(shape, dtype=bool)

    def attempt(self, draws: NDArray[np.int_], questions: NDArray[np.int_]) -> Floats:
        """Make an attempt in each of these cells; return what it cost."""
        at = draws, questions
        keys, cost = (x[(*at, self.n[at])] for x in (self.keys, self.lengths))
        self.n[at] += 1
        self.tokens[at] += cost
        d, q, k = (x[keys >= 0] for x in (draws, questions, keys))
        self.counts[d, q, k] += 1
        counts = self.counts[d, q]
        count = counts[np.arange(len(k)), k]
        # the first to reach a count keeps the lead
        leads = count > self.first[d, q]
        self.leader[d, q] = np.where(leads, k, self.leader[d, q])
        ordered = np.partition(counts, -2, axis=1) if counts.shape[1] > 1 else counts
        self.first[d, q] = ordered[:, -1]
        self.second[d, q] = ordered[:, -2] if counts.shape[1] > 1 else 0
        self.total[d, q] += 1
        self.is_right[d, q] = self.right[q, self.leader[d, q]]
        return np.asarray(cost)


Cells: TypeAlias = tuple[NDArray[np.int_], NDArray[np.int_]]
Rule: TypeAlias = Callable[[Job, Cells], Floats]


def fixed(job: Job, at: Cells) -> Floats:
    """Rank questions by how few attempts they have had."""
    return -job.n[at].astype(float)


def _worth(job: Job, at: Cells, upset: Floats) -> Floats:
    share = job.first[at] / np.maximum(1, job.total[at])
    return upset * np.where(job.total[at] > 0, share, 1) ** 0.25 / np.sqrt(job.n[at])


def price(job: Job, at: Cells) -> Floats:
    """Rank questions as `runtime.driver.allocation.worth.decision_worth` does."""
    return _worth(job, at, betainc(job.first[at] + 1, job.second[at] + 1, 0.5))


def greedy(job: Job, at: Cells) -> Floats:
    """Rank questions by the posterior gain of their leader for each token."""
    a, b = job.first[at] + 1, job.second[at] + 1
    now = 1 - betainc(a, b, 0.5)
    best = np.zeros(len(a))
    for n in (1, 2, 4, 8):
        after = np.zeros(len(a))
        for j in range(n + 1):
            choose = gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1)
            chance = np.exp(choose + betaln(a + j, b + n - j) - betaln(a, b))
            upset = betainc(a + j, b + n - j, 0.5)
            after += chance * np.maximum(upset, 1 - upset)
        best = np.maximum(best, (after - now) / n)
    return np.asarray(best * job.n[at] / np.maximum(1, job.tokens[at]))


def bandit(job: Job, at: Cells) -> Floats:
    """Rank active questions in turn; those whose votes converged come last."""
    is_done = (job.total[at] >= 3) & (job.first[at] >= 0.8 * job.total[at])
    return -job.n[at] - np.where(is_done, 1e6, 0.0)


def prior(others: Sequence[Job]) -> Rule:
    """Return `price` with the risk that leaders had in other jobs."""
    size = _LARGEST + 1
    n_seen, n_upset = np.zeros((size,) * 3), np.zeros((size,) * 3)
    for job in others:
        job.start()
        final = np.zeros((*job.keys.shape[:2], job.right.shape[1]))
        for j in range(job.n_most):
            d, q = np.nonzero(job.keys[:, :, j] >= 0)
            final[d, q, job.keys[d, q, j]] += 1
        mode = final.argmax(2)
        cells = tuple(x.ravel() for x in np.indices(job.n.shape))
        for _ in range(min(_LARGEST, job.n_most // 2)):
            job.attempt(cells[0], cells[1])
            key = _state(job, (cells[0], cells[1]))
            np.add.at(n_seen, key, 1)
            np.add.at(n_upset, key, (job.leader != mode).ravel())
        job.start()

    def rule(job: Job, at: Cells) -> Floats:
        plain = betainc(job.first[at] + 1, job.second[at] + 1, 0.5)
        key = _state(job, at)
        return _worth(job, at, (n_upset[key] + 20 * plain) / (n_seen[key] + 20))

    return rule


def _state(job: Job, at: Cells) -> tuple[NDArray[np.int_], ...]:
    counts = (job.first[at], job.second[at], job.total[at] - job.first[at] - job.second[at])
    return tuple(np.minimum(x, _LARGEST).astype(int) for x in counts)


def curve(job: Job, rule: Rule) -> Floats:
    """Return the accuracy at each budget, shape (draws, budgets).

    An attempt that a budget does not pay for in full is not made.
    """
    job.start()
    n_questions = job.n.shape[1]
    budgets = BUDGETS * n_questions * job.mean
    found = np.full((job.n_draws, len(BUDGETS)), np.nan)
    spent, draws = np.zeros(job.n_draws), np.arange(job.n_draws)

    def attempt(who: NDArray[np.int_], questions: NDArray[np.int_]) -> None:
        accuracy = job.is_right[who].mean(1)
        before = spent[who].copy()
        spent[who] += job.attempt(who, questions)
        passed = (budgets >= before[:, None]) & (budgets < spent[who][:, None])
        found[who] = np.where(passed, accuracy[:, None], found[who])

    for question in range(n_questions):
        attempt(draws, np.full(job.n_draws, question))
    cells = tuple(x.ravel() for x in np.indices(job.n.shape))
    ranks = rule(job, (cells[0], cells[1])).reshape(job.n.shape)
    while True:
        question = ranks.argmax(1)
        going = (ranks[draws, question] > -np.inf) & (spent <= budgets[-1])
        if not going.any():
            break
        at = draws[going], question[going]
        attempt(*at)
        ranks[at] = np.where(job.n[at] < job.n_most, rule(job, at), -np.inf)
    return np.where(np.isnan(found), job.is_right.mean(1)[:, None], found)


def sounding(recording: Recording, job: Job) -> Floats:
    """Return the accuracy of the per-question rule at each budget, shape (1, budgets)."""
    first = recording.problems[0].traces[0]
    blind: dict[str, object] = {} if first.probes else {"patience": 0, "interval": 24_000}
    n = min(128, *(len(p.traces) for p in recording.problems))
    settings = [
        ReplaySetting(
            PluginSpec("sounding", {"risk": r, "n": n, **blind}), PluginSpec("discounted")
        )
        for r in RISKS
    ]
    rows = play_all([recording], settings, Conditions(min(3, job.n_draws)), 1)
    tokens = [np.log(row.tokens.value) for row in rows]
    wanted = np.log(BUDGETS * job.mean)
    right = np.interp(wanted, tokens, [r.accuracy.value for r in rows])
    return np.where((wanted < tokens[0]) | (wanted > tokens[-1]), np.nan, right)[None]


def at_64(job: Job) -> Floats:
    """Return the accuracy of the vote of all attempts, 64 at most, by draw."""
    job.start()
    cells = tuple(x.ravel() for x in np.indices(job.n.shape))
    for _ in range(job.n_most):
        job.attempt(cells[0], cells[1])
    return np.asarray(job.is_right.mean(1))


def report(curves: dict[str, list[Floats]], most: Sequence[Floats]) -> None:
    """Print accuracy by rule and budget, and the paired gains over the fixed number."""
    base = np.concatenate(curves["fixed"])
    print(f"  {'attempts':9s}" + "".join(f"{b:>18g}" for b in BUDGETS))
    for name, parts in curves.items():
        both = [np.broadcast_to(p, f.shape) for p, f in zip(parts, curves["fixed"], strict=True)]
        values = np.concatenate(both)
        line = f"  {name:9s}"
        for column in range(len(BUDGETS)):
            gain = values[:, column] - base[:, column]
            gain = 100 * gain[~np.isnan(gain)]
            if not len(gain):
                line += f"{'not reached':>18s}"
                continue
            reached = 100 * np.nanmean(values[:, column])
            half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
            mark = "" if len(gain) == len(base) else "*"
            text = (
                f"{reached:.1f}"
                if name == "fixed"
                else f"{reached:.1f} ({gain.mean():+.1f}±{half:.1f})"
            )
            line += f"{text + mark:>18s}"
        print(line, flush=True)
    print(f"  64 attempts for every question: {100 * np.concatenate(most).mean():.1f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    traces = os.environ.get("LEADLINE_TRACES", "../shared/traces")
    parser.add_argument("traces", type=Path, nargs="?", default=Path(traces))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="*.gz", help="glob of file names")
    options = parser.parse_args()
    groups = {
        "recordings with probes": sorted((options.traces / "qwen3-aime24").glob(options.only)),
        "answer pools": sorted((options.traces / "answer-pools").glob(options.only)),
    }
    paths = [path for group in groups.values() for path in group]
    recordings = {path: read_recording(path).measurable() for path in paths}
    jobs = {path: Job(recording, options.seeds) for path, recording in recordings.items()}
    for title, group in groups.items():
        if not group:
            continue
        print(f"{title}: {len(group)} recordings, {options.seeds} draws")
        curves: dict[str, list[Floats]] = {}
        most = []
        for path in group:
            job, family = jobs[path], _family(path)
            others = [jobs[other] for other in paths if _family(other) != family]
            rules: dict[str, Rule] = {"fixed": fixed, "price": price, "greedy": greedy}
            rules |= {"bandit": bandit, "prior": prior(others)} if others else {"bandit": bandit}
            for name, rule in rules.items():
                curves.setdefault(name, []).append(curve(job, rule))
            curves.setdefault("sounding", []).append(sounding(recordings[path], job))
            most.append(at_64(job))
        report(curves, most)


def _family(path: Path) -> str:
    """Return the name of a recording's questions."""
    return "aime2024" if path.parent.name == "qwen3-aime24" else path.name.split("_")[0]


if __name__ == "__main__":
    main()
