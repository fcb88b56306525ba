"""What trackers show of a run: its settings by dotted key, and numbers of problems and of the end.

The one rule: the names are the same in every tracker. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from orchestrator.core.plan import Plan, document
from orchestrator.core.values import Status
from orchestrator.runtime.sinks.events import Event, ProblemFinished, RunEnded, RunStarted


def settings(run: RunStarted) -> dict[str, object]:
    """Return the plan by dotted keys, as in `sampling.temperature`, and what identifies the run."""
    facts = {"fingerprint": run.fingerprint, "directory": run.directory, "job_id": run.job_id}
    return {**_flat(_plan_table(run.plan)), "n_problems": run.n_problems, **facts}


def _plan_table(plan: Plan) -> dict[str, object]:
    table = document(plan)
    table["models"] = {name: {"path": model.path} for name, model in plan.models.items()}
    return table


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        name = f"{prefix}{key}".replace(".options.", ".")
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif value not in ("", (), []):
            flat[name] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


class Counts:
    """The problems of a run as they finish: one row of numbers for each batch of events."""

    def __init__(self, run: RunStarted) -> None:
        self.n_done = run.n_done
        self._n_answered = 0
        self._n_tokens = 0

    def row(self, events: Sequence[Event]) -> dict[str, float]:
        """Count the problems among these events and return the numbers; {} if there are none.

        Means are over these problems, totals over the run so far.
        """
        finished = [event for event in events if isinstance(event, ProblemFinished)]
        if not finished:
            return {}
        results = [event.result for event in finished]
        tokens = [sum(cost.output_tokens for cost in r.usage.values()) for r in results]
        self.n_done += len(finished)
        self._n_answered += sum(r.status is Status.ANSWERED for r in results)
        self._n_tokens += sum(tokens)
        return {
            "problems_done": float(self.n_done),
            "problems_answered": float(self._n_answered),
            "output_tokens": float(self._n_tokens),
            "problem/agreement": fmean(event.agreement for event in finished),
            "problem/output_tokens": fmean(tokens),
            "problem/traces": fmean(r.n_traces for r in results),
            "problem/dropped": fmean(len(r.dropped) for r in results),
            "problem/seconds": fmean(r.seconds for r in results),
        }


def final_numbers(ended: RunEnded) -> dict[str, float]:
    """Return the totals of a job and, where it is known, its accuracy with the interval."""
    numbers = {f"final/problems_{status}": float(n) for status, n in ended.n_by_status.items()}
    for account, cost in ended.usage.items():
        numbers[f"final/output_tokens_{account}"] = float(cost.output_tokens)
    numbers["final/output_tokens"] = float(sum(c.output_tokens for c in ended.usage.values()))
    numbers["final/seconds"] = ended.seconds
    if ended.accuracy is not None:
        known = {"": ended.accuracy.value, "_low": ended.accuracy.low, "_high": ended.accuracy.high}
        numbers |= {f"final/accuracy{k}": v for k, v in known.items() if v is not None}
    return numbers
