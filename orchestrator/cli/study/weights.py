"""What `leadline weights` does: the pools of finished jobs, model by model, to the weights of an
ensemble and how right it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from orchestrator.cli.run import print_json, stdout
from orchestrator.studies.ensembles import (
    Labelled,
    Weights,
    alone,
    cross_fitted,
    ensemble_weights,
    labelled,
)
from orchestrator.studies.evaluate import Estimate, accuracy


@dataclass(frozen=True, slots=True)
class Fit:
    """The weights in the order of the models; accuracies are those of the vote in the limit of many
    draws, each with its interval.

    `held_out` is None where there are fewer than five questions; `alone` is each model's own vote.
    """

    models: tuple[str, ...]
    paths: tuple[str, ...]
    n_traces: tuple[int, ...]
    weights: tuple[float, ...]
    margin: float
    fitted: Estimate | None
    held_out: Estimate | None
    alone: tuple[Estimate | None, ...]
    n_left_out: int


def weights(jobs: Sequence[str], problems: str, as_json: bool) -> int:
    """Fit an ensemble's weights on finished jobs, and print them."""
    found = labelled([Path(job) for job in jobs], problems)
    with _silenced():
        fit = _fit(found)
    if as_json:
        print_json(fit)
        return 0
    console = stdout()
    console.print(_table(fit))
    held = f"; held out {_said(fit.held_out)}" if fit.held_out else ""
    console.print(
        Text(
            f"weighted vote, in the limit: {_said(fit.fitted)} on the questions of the fit{held}",
            style="bold",
        ),
        soft_wrap=True,
    )
    if fit.n_left_out:
        console.print(
            Text(
                f"{fit.n_left_out:,} questions are left out: some model has no attempt at them",
                style="yellow",
            ),
            soft_wrap=True,
        )
    rounded = [round(weight, 4) for weight in fit.weights]
    plan = f'strategy = {{name = "ensemble", models = {json.dumps(list(fit.models))}, weights = {json.dumps(rounded)}}}'
    console.print(Text(f"in a plan: {plan}", style="dim"), soft_wrap=True)
    return 0


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep what the solver's native code prints (HiGHS has left a debugging line in) out of the
    standard output, which may be JSON.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _fit(found: Labelled) -> Fit:
    questions = list(found.questions.values())
    fit: Weights = ensemble_weights(questions)
    held_out = cross_fitted(questions)
    right = [q.won(fit.weights) for q in questions]
    return Fit(
        models=found.models,
        paths=found.paths,
        n_traces=found.n_traces,
        weights=tuple(round(weight, 6) for weight in fit.weights),
        margin=fit.margin,
        fitted=_share(right),
        held_out=_share(held_out),
        alone=tuple(
            _share([q.won(alone(i, len(found.models))) for q in questions])
            for i in range(len(found.models))
        ),
        n_left_out=found.n_left_out,
    )


def _share(right: Sequence[bool]) -> Estimate | None:
    return accuracy({str(i): one for i, one in enumerate(right)})


def _table(fit: Fit) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("model", "path", "traces", "alone", "95% interval", "weight"):
        table.add_column(
            heading, justify="left" if heading in ("model", "path") else "right", overflow="fold"
        )
    for name, path, n, own, weight in zip(
        fit.models, fit.paths, fit.n_traces, fit.alone, fit.weights, strict=True
    ):
        table.add_row(Text(name), Text(path), f"{n:,}", *_columns(own), f"{weight:.3f}")
    return table


def _columns(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "–", "–"
    return f"{estimate.value:.1%}", f"{estimate.low:.1%} to {estimate.high:.1%}"


def _said(estimate: Estimate | None) -> str:
    share, interval = _columns(estimate)
    return share if estimate is None else f"{share} ({interval}, n = {estimate.n:,})"
