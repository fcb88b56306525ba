"""Reports runs to MLflow. Imported only where it is used; `mlflow-skinny` is enough.

A job has one MLflow run, found again by the tag `leadline.job_id`, so a resumed job continues it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.runtime.sinks.events import Event, ProblemFinished, Receive, RunEnded, RunStarted
from orchestrator.runtime.sinks.numbers import Counts, final_numbers, settings

_TAG = "leadline.job_id"
_MOST_PARAMS = 100  # of one request to MLflow
_STATUS = {"done": "FINISHED", "failed": "FAILED"}  # else KILLED


@dataclass(frozen=True, slots=True)
class MLflow:
    """Report runs to an MLflow tracking server, folder or database."""

    tracking_uri: Annotated[
        str, Meta(description="The tracking server or store; empty: as MLflow's own settings say.")
    ] = ""
    experiment: Annotated[str, Meta(min_length=1, description="The experiment of the runs.")] = (
        "leadline"
    )
    events: ClassVar[tuple[type, ...]] = (ProblemFinished, RunEnded)
    packages: ClassVar[dict[str, str]] = {"mlflow": "leadline[mlflow]"}

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        """Begin or continue the MLflow run of a job."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        client = MlflowClient(self.tracking_uri or None)
        run_id, known = _run(client, self.experiment, run)
        fresh = [Param(k, str(v)) for k, v in settings(run).items() if k not in known]
        for first in range(0, len(fresh), _MOST_PARAMS):
            client.log_batch(run_id, params=fresh[first : first + _MOST_PARAMS])
        counts = Counts(run)

        def receive(events: Sequence[Event]) -> None:
            numbers = counts.row(events)
            last = events[-1]
            if isinstance(last, RunEnded):
                numbers |= final_numbers(last)
            now = int(last.time * 1000)
            metrics = [Metric(k, v, now, counts.n_done) for k, v in numbers.items()]
            client.log_batch(run_id, metrics=metrics)
            if isinstance(last, RunEnded):
                client.set_terminated(run_id, _STATUS.get(last.reason, "KILLED"))

        yield receive


def _run(client: Any, experiment: str, run: RunStarted) -> tuple[str, set[str]]:
    """Return the id of a job's MLflow run, and the names of the parameters that it has."""
    known = client.get_experiment_by_name(experiment)
    id = known.experiment_id if known else client.create_experiment(experiment)
    found = client.search_runs([id], f"tags.`{_TAG}` = '{run.job_id}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id, set(found[0].data.params)
    created = client.create_run(id, tags={_TAG: run.job_id}, run_name=run.name)
    return created.info.run_id, set()
