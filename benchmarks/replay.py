"""Reproduces published figures of voting and probing rules on recorded traces.

    python benchmarks/replay.py table [TRACES] [--seeds 100] [--probe-seeds 100]
    python benchmarks/replay.py ldv [TRACES]
    python benchmarks/replay.py frontier [TRACES]
    python benchmarks/replay.py widths [TRACES]
    python benchmarks/replay.py versus [TRACES]  (LDV's points, on the recordings with probes)
    python benchmarks/replay.py unseen [TRACES] [--seeds 10]  (the same on the answer pools, on
      which nothing was tuned)
    python benchmarks/replay.py pools [TRACES] [--seeds 3]
    python benchmarks/replay.py scores [TRACES]

It runs the project's own strategies and also measures the frontier of `sounding`. TRACES contains
`qwen3-aime24` (recordings with probes of AIME 2024 from the AutoTTS release), `answer-pools` (from
the Best-of-infinity code) and `qwen2.5-1.5b` (full texts with scores); none of it is part of this
repository. Default: $LEADLINE_TRACES, else ../shared/traces. `table` allows deviations of 1.0
accuracy point and 3 % of the published tokens, `ldv` of 0.3 points and 1 %; both report larger
ones.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from orchestrator.core.values import PluginSpec
from orchestrator.studies.estimates import Estimate, mean_estimate
from orchestrator.studies.replay.experiment import (
    Conditions,
    ReplayRow,
    ReplaySetting,
    difference,
    play_all,
)
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import Recording

MODELS = ("0.6B", "1.7B", "4B", "8B")
DISCOUNTED = PluginSpec("discounted")


def adaptive(n: int, **options: object) -> ReplaySetting:
    """Return a sequential rule of at most n samples."""
    return ReplaySetting(PluginSpec("adaptive", {"n": n, "wave": 1, "growth": 1.0, **options}))


SC = ReplaySetting(PluginSpec("consistency", {"n": 64}))
ASC_40 = adaptive(40)
# Accuracy in % and thousand tokens per question, by model; the AutoTTS repository's table.
PUBLISHED: dict[str, tuple[ReplaySetting, tuple[tuple[float, float], ...]]] = {
    "SC@64": (SC, ((21.4, 1008.6), (72.5, 1025.8), (80.0, 886.8), (80.4, 910.8))),
    "adaptive consistency": (
        adaptive(64),
        ((21.4, 805.5), (72.3, 482.6), (80.1, 175.7), (80.4, 226.0)),
    ),
    "ESC": (
        adaptive(64, rule="window", window=8, wave=8),
        ((21.4, 986.7), (72.5, 909.2), (80.0, 528.9), (80.4, 459.4)),
    ),
    "Parallel-Probe": (
        ReplaySetting(PluginSpec("parallel-probe")),
        ((21.8, 773.8), (68.1, 748.5), (79.7, 688.9), (81.5, 730.8)),
    ),
}
# (risk, budget in thousand tokens) -> the same, as measured by the author of the rule.
LDV: dict[tuple[float, int], tuple[tuple[float, float], ...]] = {
    (0.15, 300): ((21.0, 203), (68.1, 123), (82.3, 73), (83.5, 70)),
    (0.10, 400): ((21.8, 303), (69.7, 180), (82.9, 103), (84.1, 98)),
    (0.10, 600): ((22.3, 409), (70.7, 216), (83.4, 122), (85.0, 117)),
    (0.05, 1200): ((23.3, 816), (71.3, 367), (84.2, 209), (86.0, 203)),
}
RISKS = (0.3, 0.23, 0.15, 0.06)
VERSUS_RISKS = (0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.06, 0.04, 0.025)
WIDTHS = tuple(
    (risk, width, spare)
    for risk in (0.23, 0.06)
    for width, spare in ((8, 0), (8, 1), (8, 8), (16, 16))
)
# mean length of an attempt where LDV's budgets were set: elsewhere they are scaled by the mean
# length
LDV_TOKENS = 15_000
POOL_RULES = {
    "fixed 1": ReplaySetting(PluginSpec("consistency", {"n": 1})),
    "fixed 10": ReplaySetting(PluginSpec("consistency", {"n": 10})),
    "fixed 100": ReplaySetting(PluginSpec("consistency", {"n": 100})),
    "beta .95 (AC), max 40": adaptive(40),
    "window 5 (ESC), max 40": adaptive(40, rule="window", window=5, wave=5),
    **{
        f"bayes {factor}, max 100": adaptive(100, rule="bayes", bayes_factor=float(factor))
        for factor in (10, 30, 100)
    },
}


def ldv(risk: float, kilotokens: float, **options: object) -> ReplaySetting:
    """Return `sounding` with LDV's settings."""
    fixed = {
        "tokens": round(1000 * kilotokens),
        "risk_growth": 0.0,
        "share_power": 0.5,
        "width": 3,
        "spare": 3,
        "n": 128,
        **options,
    }
    return ReplaySetting(PluginSpec("sounding", {"risk": risk, **fixed}), DISCOUNTED)


def sounding(risk: float, **options: object) -> ReplaySetting:
    """Return `sounding` with its defaults and as many attempts as the recordings allow."""
    return ReplaySetting(PluginSpec("sounding", {"risk": risk, "n": 128, **options}), DISCOUNTED)


def compare(
    name: str,
    rows: Sequence[ReplayRow],
    published: Sequence[tuple[float, float]],
    points: float,
    share: float,
) -> None:
    """Print measured and published figures by model, and mark those that differ too much."""
    for row, (accuracy, kilotokens) in zip(rows, published, strict=True):
        found, spent = 100 * row.accuracy.value, row.tokens.value / 1000
        off_points, off_share = found - accuracy, spent / kilotokens - 1
        mark = "" if abs(off_points) <= points and abs(off_share) <= share else "   <- outside"
        print(
            f"  {name:22s} {row.source:5s} {found:5.1f} / {spent:7.1f}   published {accuracy:5.1f} "
            f"/ {kilotokens:7.1f}"
            f"   {off_points:+.1f} points, {off_share:+.1%} tokens   path "
            f"{row.path_tokens / 1000:6.1f}{mark}",
            flush=True,
        )


def table(recordings: Sequence[Recording], n_seeds: int, n_probe_seeds: int) -> None:
    """Print the published table as reproduced by our strategies."""
    for name, (setting, published) in PUBLISHED.items():
        conditions = Conditions(n_probe_seeds if name == "Parallel-Probe" else n_seeds)
        rows = play_all(recordings, [setting], conditions)[: len(recordings)]
        compare(name, rows, published, 1.0, 0.03)
    rows = play_all(recordings[2:3], [ASC_40], Conditions(n_seeds))
    compare("the same, at most 40", rows, (PUBLISHED["adaptive consistency"][1][2],), 1.0, 0.03)


def reproduce(recordings: Sequence[Recording], n_seeds: int) -> None:
    """Print LDV's points next to those measured before."""
    for (risk, kilotokens), published in LDV.items():
        rows = play_all(recordings, [ldv(risk, kilotokens)], Conditions(n_seeds))[: len(recordings)]
        compare(f"theta {1 - risk:.2f}, B {kilotokens}k", rows, published, 0.3, 0.01)


def frontier(recordings: Sequence[Recording], n_seeds: int, probe_tokens: int) -> None:
    """Print the frontier, pooled over the models, with SC@64 on the same draws.

    Intervals are over questions.
    """
    conditions = Conditions(n_seeds, probe_tokens=probe_tokens)
    base = play_all(recordings, [SC], conditions)[-1]
    print(
        f"  SC@64        {interval(base.accuracy)}   {base.tokens.value / 1000:7.1f}   path "
        f"{base.path_tokens / 1000:6.1f}"
    )
    for risk in RISKS:
        rows = play_all(recordings, [sounding(risk)], conditions)
        pooled = rows[-1]
        gain = difference(pooled, base)
        by_model = ", ".join(
            f"{100 * r.accuracy.value:.1f}/{r.tokens.value / 1000:.0f}" for r in rows[:-1]
        )
        print(
            f"  risk {risk:<5}   {interval(pooled.accuracy)}   {pooled.tokens.value / 1000:7.1f}   "
            f"path {pooled.path_tokens / 1000:6.1f}"
            f"   tokens {pooled.tokens.value / base.tokens.value - 1:+.1%}   accuracy "
            f"{interval(gain, '+')}"
            f"   pruning errors {pooled.pruning_errors:.1%}   by model {by_model}",
            flush=True,
        )


def widths(recordings: Sequence[Recording], n_seeds: int) -> None:
    """Print the token cost and the critical path saved when more attempts run concurrently."""
    for risk, width, spare in WIDTHS:
        row = play_all(recordings, [sounding(risk, width=width, spare=spare)], Conditions(n_seeds))[
            -1
        ]
        spent = f"{row.tokens.value / 1000:7.1f}   path {row.path_tokens / 1000:6.1f}"
        print(
            f"  risk {risk:<5} width {width:2d} spare {spare:2d}   {interval(row.accuracy)}   "
            f"{spent}",
            flush=True,
        )


def versus(groups: Mapping[str, Sequence[Recording]], n_seeds: int) -> None:
    """Print the accuracy gain of `sounding` over each of LDV's points, per group of recordings.

    A group has recordings of the same questions. A point beyond the frontier of a recording is
    omitted there.
    """
    for name, recordings in groups.items():
        found = [against(recording, n_seeds) for recording in recordings]
        for (risk, kilotokens), reached in zip(LDV, zip(*found, strict=True), strict=True):
            there = [one for one in reached if one is not None]
            if there:
                gain = mean_estimate(
                    [fmean(gains[unit] for gains, _ in there) for unit in there[0][0]]
                )
                point = f"theta {1 - risk:.2f}, B {kilotokens:4d}k"
                path = fmean(ratio for _, ratio in there)
                print(
                    f"  {name:9s} {point}   {interval(gain, '+')}   path x{path:.2f}   recordings "
                    f"{len(there)}",
                    flush=True,
                )


def against(recording: Recording, n_seeds: int) -> list[tuple[dict[str, float], float] | None]:
    """Return for each of LDV's points the gain by question, and our path over LDV's.

    None if a point is not reached. Gains are at equal tokens: the frontier is interpolated linearly
    in the logarithm of the tokens. Without recorded probes neither rule uses them.
    """
    first = recording.problems[0].traces[0]
    n = min(128, *(len(p.traces) for p in recording.problems))
    # nothing to inspect before the cap
    blind: dict[str, object] = {"patience": 0, "interval": 24_000}
    alike = {"n": n, **({} if first.probes else blind)}
    scale = (
        1.0
        if first.probes
        else fmean(t.n_tokens for p in recording.problems for t in p.traces) / LDV_TOKENS
    )
    rules = [ldv(risk, kilotokens * scale, **alike) for risk, kilotokens in LDV] + [
        sounding(risk, **alike) for risk in VERSUS_RISKS
    ]
    rows = play_all([recording], rules, Conditions(n_seeds))
    ours = sorted(rows[len(LDV) :], key=lambda row: row.tokens.value)
    found: list[tuple[dict[str, float], float] | None] = []
    for theirs in rows[: len(LDV)]:
        there = at_tokens(ours, theirs.tokens.value)
        if there is not None:
            gains = {unit: right - theirs.units[unit][0] for unit, right in there[0].items()}
            there = gains, there[1] / theirs.path_tokens
        found.append(there)
    return found


def at_tokens(rows: Sequence[ReplayRow], tokens: float) -> tuple[dict[str, float], float] | None:
    """Return a frontier's accuracy by question, and its path, at this number of tokens.

    The frontier is sorted by tokens. None if it does not reach that number.
    """
    for low, high in pairwise(rows):
        if low.tokens.value <= tokens <= high.tokens.value:
            share = math.log(tokens / low.tokens.value) / math.log(
                high.tokens.value / low.tokens.value
            )
            right = {
                unit: (1 - share) * low.units[unit][0] + share * high.units[unit][0]
                for unit in low.units
            }
            return right, (1 - share) * low.path_tokens + share * high.path_tokens
    return None


def by_set(folder: Path) -> dict[str, list[Recording]]:
    """Return the answer pools by question set."""
    found: dict[str, list[Recording]] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        found.setdefault(path.name.split("_")[0], []).append(read_recording(path))
    return found


def interval(estimate: Estimate, sign: str = "") -> str:
    """Return an estimate in points with its interval."""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:{sign}.1f} [none]"
    return (
        f"{100 * estimate.value:{sign}.1f} [{100 * estimate.low:{sign}.1f}, "
        f"{100 * estimate.high:{sign}.1f}]"
    )


def pools(folder: Path, pattern: str, n_seeds: int) -> None:
    """Print accuracy and mean number of samples of the adaptive-count rules on answer pools.

    Pools are resampled with replacement.
    """
    for path in sorted(folder.glob(f"{pattern}.jsonl.gz")):
        recording = read_recording(path)
        print(f"\n{recording.name}: {len(recording.problems)} questions, {n_seeds} resamplings")
        for name, setting in POOL_RULES.items():
            [row] = play_all([recording], [setting], Conditions(n_seeds, draw="resampled"))
            print(
                f"  {name:24s} accuracy {interval(row.accuracy)}   traces {row.n_attempts:6.2f}",
                flush=True,
            )


def scores(folder: Path, n_seeds: int) -> None:
    """Print best-of-n by process reward, weighted vote and majority on full-text pools."""
    votes = [
        PluginSpec("majority"),
        PluginSpec("best", {"by": "verdict:prm"}),
        PluginSpec("weighted", {"by": "verdict:prm"}),
    ]
    for path in sorted(folder.glob("*bestofn*.json.gz")):
        recording = read_recording(path)
        print(f"\n{recording.name}: {len(recording.problems)} questions, {n_seeds} draws")
        for n in (1, 2, 4, 8):
            rows = play_all(
                [recording],
                [ReplaySetting(PluginSpec("consistency", {"n": n}), vote) for vote in votes],
                Conditions(n_seeds),
                1,
            )
            print(
                f"  n = {n}   "
                + "   ".join(f"{r.setting.selector.name} {interval(r.accuracy)}" for r in rows),
                flush=True,
            )


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=("table", "ldv", "frontier", "widths", "versus", "unseen", "pools", "scores"),
    )
    parser.add_argument(
        "traces",
        type=Path,
        nargs="?",
        default=os.environ.get("LEADLINE_TRACES", "../shared/traces"),
    )
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument(
        "--probe-seeds",
        type=int,
        default=100,
        help="of Parallel-Probe, whose 64 probed attempts take longest",
    )
    parser.add_argument(
        "--probe-tokens",
        type=int,
        default=0,
        help="what a probe is charged in `frontier`; the published tables charge none",
    )
    parser.add_argument(
        "--only",
        default="*gpt-oss-20b*",
        help="glob of the pools to measure (default: %(default)s)",
    )
    options = parser.parse_args()
    began = time.monotonic()
    if options.what == "pools":
        pools(options.traces / "answer-pools", options.only, options.seeds)
    elif options.what == "scores":
        scores(options.traces / "qwen2.5-1.5b", options.seeds)
    elif options.what == "unseen":
        versus(by_set(options.traces / "answer-pools"), options.seeds)
    else:
        recordings = [
            read_recording(options.traces / "qwen3-aime24" / f"{model}.json.gz") for model in MODELS
        ]
        print(
            f"{options.what}: {options.seeds} draws; accuracy % / thousand tokens a question; "
            "path: thousand tokens in sequence"
        )
        if options.what == "table":
            table(recordings, options.seeds, options.probe_seeds)
        elif options.what == "ldv":
            reproduce(recordings, options.seeds)
        elif options.what == "widths":
            widths(recordings, options.seeds)
        elif options.what == "versus":
            versus({"pooled": recordings}, options.seeds)
        else:
            frontier(recordings, options.seeds, options.probe_tokens)
    print(f"took {time.monotonic() - began:.0f} s of wall-clock")


if __name__ == "__main__":
    main()
