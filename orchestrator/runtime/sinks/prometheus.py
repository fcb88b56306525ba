"""Reports runs as a text file for the textfile collector of Prometheus's node exporter.

The file is replaced in one step about once a second while something happens. Imported only where it
is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.core.errors import PluginError
from orchestrator.runtime.sinks.events import (
    Event,
    ProblemFinished,
    Receive,
    RunEnded,
    RunStarted,
    TraceFinished,
)

_TOKENS = tuple(float(4**n) for n in range(2, 9))  # 16 to 65,536
_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_DEPTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Report runs as Prometheus text, in a file for the node exporter's textfile collector."""

    path: Annotated[
        str, Meta(pattern=r"\.prom$", description="The file; its name must end in .prom.")
    ] = "leadline.prom"
    run: Annotated[
        str, Meta(description="The label `run` of all metrics; empty: the job's directory.")
    ] = ""
    packages: ClassVar[dict[str, str]] = {"prometheus_client": "leadline[prometheus]"}

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        """Begin to write the file of a run."""
        from prometheus_client import CollectorRegistry, write_to_textfile

        path = Path(self.path)
        if not path.absolute().parent.is_dir():
            raise PluginError(f"path = {self.path!r}: there is no directory {path.parent}")
        registry = CollectorRegistry()
        metrics = _Metrics(registry, self.run or run.directory)
        metrics.begin(run)

        def receive(events: Sequence[Event]) -> None:
            for event in events:
                metrics.add(event)
            write_to_textfile(str(path), registry)

        yield receive


class _Metrics:
    """The metrics of a run."""

    def __init__(self, registry: Any, label: str) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        def metric(kind: Any, name: str, text: str, labels: Sequence[str] = (), **more: Any) -> Any:
            made = kind(f"leadline_{name}", text, ("run", *labels), registry=registry, **more)
            return cache(lambda *values: made.labels(label, *values))

        by_purpose = ("purpose",)
        self._problems = metric(Gauge, "problems", "Problems of the job.")
        self._done = metric(
            Gauge, "problems_done", "Problems with a result, by status.", ["status"]
        )
        self._traces = metric(
            Counter, "traces", "Finished traces.", ["purpose", "finish", "dropped_by"]
        )
        self._tokens = metric(
            Histogram, "trace_tokens", "Output tokens of a trace.", by_purpose, buckets=_TOKENS
        )
        self._seconds = metric(
            Histogram, "trace_seconds", "Engine seconds of a trace.", by_purpose, buckets=_SECONDS
        )
        self._depth = metric(
            Histogram, "trace_depth", "Latent depth of a trace.", by_purpose, buckets=_DEPTHS
        )
        self._agreement = metric(Gauge, "agreement", "Agreement of the last problem.")
        self._accuracy = metric(Gauge, "accuracy", "Accuracy of the job.", ["bound"])
        self._ended = metric(Gauge, "run_ended_seconds", "When the run ended.", ["reason"])

    def begin(self, run: RunStarted) -> None:
        self._problems().set(run.n_problems)

    def add(self, event: Event) -> None:
        if isinstance(event, TraceFinished):
            purpose = event.purpose.value
            self._traces(purpose, event.finish.value, event.dropped_by).inc()
            self._tokens(purpose).observe(event.usage.output_tokens)
            self._seconds(purpose).observe(event.usage.seconds)
            if event.depth is not None:
                self._depth(purpose).observe(event.depth)
        elif isinstance(event, ProblemFinished):
            self._done(event.result.status.value).inc()
            self._agreement().set(event.agreement)
        elif isinstance(event, RunEnded):
            self._end(event)

    def _end(self, event: RunEnded) -> None:
        for status, n in event.n_by_status.items():  # of the whole job, earlier runs included
            self._done(status).set(n)
        self._ended(event.reason).set(event.time)
        if event.accuracy is not None:
            known = {"value": event.accuracy.value, "low": event.accuracy.low}
            known["high"] = event.accuracy.high
            for bound, value in known.items():
                if value is not None:
                    self._accuracy(bound).set(value)
