"""Evaluates the choices of `auto` and of pilots on recorded pools, on problems outside the pilot.

    python benchmarks/choose.py POOL... --pilot 10,20,40 --draws 60

Every candidate of a pilot is replayed once on all problems of a pool. A pilot is then a random
subset of them: its pick is scored on the others. The table also shows the rule's choice without a
pilot, the most accurate candidate, and one attempt.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from orchestrator.plan.auto import Situation
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.estimates import mean_estimate
from orchestrator.studies.replay import pilot
from orchestrator.studies.replay.experiment import Conditions, ReplayRow, play_all
from orchestrator.studies.replay.files import read_recording


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pools", nargs="+")
    parser.add_argument("-n", type=int, default=16, help="attempts of a problem at most")
    parser.add_argument("--pilot", default="10,20,40", help="how many problems pilots have")
    parser.add_argument("--draws", type=int, default=60, help="pilots of each size")
    parser.add_argument(
        "--seeds", type=int, default=12, help="orders in which a candidate meets the attempts"
    )
    asked = parser.parse_args()
    for source in asked.pools:
        rows = play_all(
            [read_recording(source)],
            pilot.candidates(Situation(), asked.n),
            Conditions(asked.seeds),
            n_processes=1,
        )
        print(
            f"\n{Path(source).name}: {rows[0].accuracy.n} problems, at most {asked.n} attempts; "
            "accuracy % / thousand tokens"
        )
        for row in rows:
            low, high = (100 * (bound or 0.0) for bound in (row.accuracy.low, row.accuracy.high))
            print(f"  {spelled(row.setting.strategy):22} {said([row])}  [{low:.1f}, {high:.1f}]")
        for size in (int(k) for k in asked.pilot.split(",")):
            if 2 * size <= rows[0].accuracy.n:
                show(rows, size, asked.draws)


def show(rows: Sequence[ReplayRow], size: int, n_draws: int) -> None:
    """Draw pilots of a size, and print the scores of their picks on the other problems."""
    ids, rng = list(rows[0].units), random.Random(0)
    picks: Counter[str] = Counter()
    kept, greedy, ruled = [], [], []
    for _ in range(n_draws):
        seen = set(rng.sample(ids, size))
        tried = [part(row, [id for id in ids if id in seen]) for row in rows]
        rest = [part(row, [id for id in ids if id not in seen]) for row in rows]
        place = tried.index(pilot.picked(tried))
        picks[spelled(rows[place].setting.strategy)] += 1
        kept.append(rest[place])
        greedy.append(
            rest[
                max(
                    range(len(rows)),
                    key=lambda i: (tried[i].accuracy.value, -tried[i].tokens.value),
                )
            ]
        )
        ruled.append(rest[0])
    common = ", ".join(f"{name} {100 * k / n_draws:.0f} %" for name, k in picks.most_common(3))
    print(
        f"  pilot of {size:3}: {said(kept)} · rule {said(ruled)} · most accurate {said(greedy)} · "
        f"picks {common}",
        flush=True,
    )


def part(row: ReplayRow, ids: Sequence[str]) -> ReplayRow:
    """Return a row restricted to some of its questions."""
    units = {id: row.units[id] for id in ids}
    right, tokens = (mean_estimate([unit[i] for unit in units.values()]) for i in (0, 1))
    return replace(row, accuracy=right, tokens=tokens, units=units)


def said(rows: Sequence[ReplayRow]) -> str:
    """Return the mean accuracy and tokens of rows."""
    return (
        f"{100 * fmean(r.accuracy.value for r in rows):5.1f} / "
        f"{fmean(r.tokens.value for r in rows) / 1000:6.1f}"
    )


if __name__ == "__main__":
    main()
