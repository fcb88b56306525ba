"""Evaluates a calibrated estimate of whether a running attempt's current answer is final.

    python benchmarks/settled.py [TRACES]

It is tested on held-out models and questions. TRACES contains `qwen3-aime24` (recordings with
probes of AIME 2024 from the AutoTTS release; not part of this repository). Default:
$LEADLINE_TRACES, else ../shared/traces.

Every fourth attempt is inspected every 3,000 tokens while it runs. A logistic regression is fitted
on the other three models and the other half of the questions. Its features are the attempt's age,
the time since its answer last changed, and how many of eight attempts that had ended by then agree
with it. Reports Brier scores, with a bootstrap over questions of the gain over the share of
agreement alone; AUROC; reliability.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from orchestrator.studies.estimates import mean_estimate
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import RecordedProblem, RecordedTrace, Recording

MODELS = ("0.6B", "1.7B", "4B", "8B")
EVERY = 3_000  # tokens between two inspections: six probes
N_VOTERS = 8
# the attempt's own features: age, stability, whether it has an answer
OWN = slice(0, 3)


def looks(problem: RecordedProblem) -> list[tuple[list[float], bool]]:
    """Return features, and whether the current answer was final, per inspection.

    Every fourth attempt is inspected.
    """
    found = []
    for trace in problem.traces[::4]:
        present, n_same = None, 0
        for n_tokens, answer in trace.probes.items():
            key = answer.key if answer else ""
            n_same = n_same + 1 if key == present else 1
            present = key
            if n_tokens % EVERY == 0:
                found.append(
                    (
                        features(problem, trace, n_tokens, present, n_same),
                        bool(trace.answer) and present == trace.answer.key,
                    )
                )
    return found


def features(
    problem: RecordedProblem, trace: RecordedTrace, n_tokens: int, present: str, n_same: int
) -> list[float]:
    """Return an attempt's features after this number of tokens.

    Agreement is Laplace's estimate: one half without voters.
    """
    ended = [
        t.answer.key
        for t in problem.traces
        if t is not trace and t.n_tokens <= n_tokens and t.answer
    ][:N_VOTERS]
    n_agree = ended.count(present) if present else 0
    agreement = (n_agree + 0.5) / (len(ended) + 1)
    return [
        math.log(n_tokens),
        math.log(n_same),
        float(present != ""),
        float(bool(ended)),
        agreement,
        math.log(n_same) * agreement,
    ]


def table(recordings: Sequence[Recording]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return features, outcomes and question numbers of each recording."""
    found = []
    for recording in recordings:
        rows = [
            (x, y, i) for i, problem in enumerate(recording.problems) for x, y in looks(problem)
        ]
        found.append(
            (
                np.array([r[0] for r in rows]),
                np.array([r[1] for r in rows]),
                np.array([r[2] for r in rows]),
            )
        )
    return found


def held_out(
    tables: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], model: int, columns: slice
) -> np.ndarray:
    """Return the estimates for one model's inspections.

    Each is fitted on the other models and the other half of the questions.
    """
    x, _, question = tables[model]
    estimates = np.zeros(len(x))
    for half in (0, 1):
        others = [
            (a, b)
            for i, (a, b, q) in enumerate(tables)
            if i != model
            for a, b in [(a[q % 2 != half], b[q % 2 != half])]
        ]
        fitted = make_pipeline(StandardScaler(), LogisticRegression())
        fitted.fit(
            np.concatenate([a for a, _ in others])[:, columns],
            np.concatenate([b for _, b in others]),
        )
        here = question % 2 == half
        estimates[here] = fitted.predict_proba(x[here][:, columns])[:, 1]
    return estimates


def main() -> None:
    """Print one line per model, then its reliability in fifths."""
    folder = (
        Path(
            sys.argv[1]
            if len(sys.argv) > 1
            else os.environ.get("LEADLINE_TRACES", "../shared/traces")
        )
        / "qwen3-aime24"
    )
    tables = table([read_recording(folder / f"{model}.json.gz") for model in MODELS])
    for i, model in enumerate(MODELS):
        _, last, question = tables[i]
        share = np.concatenate([y for j, (_, y, _) in enumerate(tables) if j != i]).mean()
        estimate, own = held_out(tables, i, slice(None)), held_out(tables, i, OWN)
        errors, plain = (estimate - last) ** 2, (share - last) ** 2
        gain = mean_estimate(
            [float((plain - errors)[question == q].mean()) for q in np.unique(question)]
        )
        print(
            f"{model:5s} {len(last):,} looks, the present answer is the last in {last.mean():.1%}: "
            f"Brier {errors.mean():.3f}, "
            f"of the attempt alone {((own - last) ** 2).mean():.3f}, of the others' share "
            f"{plain.mean():.3f}; "
            f"gain {gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]; AUROC "
            f"{roc_auc_score(last, estimate):.3f}"
        )
        bins = np.minimum((estimate * 5).astype(int), 4)
        said = [
            f"{estimate[bins == b].mean():.2f} {last[bins == b].mean():.2f} ({(bins == b).sum():,})"
            for b in np.unique(bins)
        ]
        print("      said and true: " + ", ".join(said), flush=True)


if __name__ == "__main__":
    main()
