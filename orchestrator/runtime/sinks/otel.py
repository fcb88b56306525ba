"""Reports runs as OpenTelemetry spans: the run, its problems, and their traces.

Where and how spans are sent is set by OpenTelemetry's own environment variables
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, ...). In a program that
has set up OpenTelemetry itself, its provider is used. Imported only where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar

from orchestrator.core.errors import PluginError
from orchestrator.runtime.sinks.events import (
    Event,
    ProblemFinished,
    Receive,
    RunEnded,
    RunStarted,
    TraceFinished,
)
from orchestrator.runtime.sinks.numbers import final_numbers, settings

_FLUSH_SPANS = 1_000  # the SDK's own queue has 2,048 and drops more without a word
_FLUSH_MILLIS = 10_000
_EXPORTERS = "opentelemetry_traces_exporter"  # the SDK's entry points


@dataclass(frozen=True, slots=True)
class OpenTelemetry:
    """Report runs as OpenTelemetry spans, set up by OpenTelemetry's environment variables."""

    packages: ClassVar[dict[str, str]] = {"opentelemetry.sdk": "leadline[otel]"}

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        """Begin the span of a run; a resumed job has a span for each of its runs."""
        failures: list[int] = []
        provider, is_ours = span_provider(failures)
        spans = _Spans(provider, run)

        def receive(events: Sequence[Event]) -> None:
            for event in events:
                spans.add(event)

        try:
            yield receive
        finally:
            spans.flush()
            if is_ours:
                provider.shutdown()
        if failures:
            raise PluginError(f"{sum(failures):,} spans could not be exported")


def span_provider(failures: list[int]) -> tuple[Any, bool]:
    """Return the program's provider of spans, or our own, and whether it is ours.

    Ours adds to `failures` how many spans were not exported, each time.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    theirs = trace.get_tracer_provider()
    if isinstance(theirs, TracerProvider):
        return theirs, False
    name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "leadline"}
    own = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    for exporter in _exporters():
        own.add_span_processor(BatchSpanProcessor(_Watched(exporter(), failures)))
    return own, True


class _Watched:
    """An exporter whose failures are counted; the SDK only logs them."""

    def __init__(self, exporter: Any, failures: list[int]) -> None:
        self._exporter = exporter
        self._failures = failures

    def export(self, spans: Sequence[Any]) -> Any:
        result = self._exporter.export(spans)
        if result.name != "SUCCESS":
            self._failures.append(len(spans))
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)


def _exporters() -> list[Any]:
    """Return the exporters that OTEL_TRACES_EXPORTER and the protocol of OTLP name."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    known = {point.name: point for point in entry_points(group=_EXPORTERS)}
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    names = [otlp if name.strip() == "otlp" else name.strip() for name in wanted]
    for name in names:
        if name != "none" and name not in known:
            have = ", ".join(sorted(known)) or "none"
            raise PluginError(f"OpenTelemetry has no exporter {name!r} installed; it has: {have}")
    return [known[name].load() for name in names if name != "none"]


class _Spans:
    """The open spans of a run, each begun when its first child arrives."""

    def __init__(self, provider: Any, run: RunStarted) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("leadline")
        self._n_ended = 0
        facts = {f"leadline.{key}": value for key, value in settings(run).items()}
        self._run = self._begin(f"run {run.name}", None, run.time, facts)
        self._problems: dict[str, Any] = {}

    def add(self, event: Event) -> None:
        """Begin and end the spans that an event is about."""
        if isinstance(event, TraceFinished):
            self._add_trace(event)
        elif isinstance(event, ProblemFinished):
            self._end_problem(event)
        elif isinstance(event, RunEnded):
            self._end_run(event)

    def flush(self) -> None:
        """Wait until the spans so far are exported, within a limit."""
        self._n_ended = 0
        self._provider.force_flush(_FLUSH_MILLIS)

    def _add_trace(self, event: TraceFinished) -> None:
        began = event.time - event.usage.seconds
        if event.problem_id not in self._problems:
            self._problems[event.problem_id] = self._problem(event.problem_id, began)
        facts = {
            "ordinal": event.ordinal,
            "purpose": event.purpose.value,
            "finish": event.finish.value,
            "model": event.model,
            "depth": event.depth,
            "parent": event.parent,
            "prompt_tokens": event.usage.prompt_tokens,
            "output_tokens": event.usage.output_tokens,
            "has_answer": event.has_answer,
            "dropped_by": event.dropped_by or None,
        }
        parent = self._problems[event.problem_id]
        name = f"trace {event.purpose.value}"
        self._end(self._begin(name, parent, began, _prefixed(facts)), event.time)

    def _problem(self, id: str, began: float) -> Any:
        return self._begin("problem", self._run, began, {"leadline.problem_id": id})

    def _end_problem(self, event: ProblemFinished) -> None:
        result = event.result
        span = self._problems.pop(result.problem_id, None)
        span = span or self._problem(result.problem_id, event.time - result.seconds)
        facts: dict[str, object] = {
            "status": result.status.value,
            "agreement": event.agreement,
            "tied": result.tied,
            "stopped_by": result.stopped_by or None,
            "dropped": tuple(event.dropped) or None,
            **{f"output_tokens.{k}": cost.output_tokens for k, cost in result.usage.items()},
        }
        span.set_attributes(_prefixed(facts))
        if result.error:
            span.set_status(self._trace.StatusCode.ERROR, result.error)
        self._end(span, event.time)

    def _end_run(self, event: RunEnded) -> None:
        for span in self._problems.values():  # interrupted
            self._end(span, event.time)
        self._run.set_attributes(_prefixed({"reason": event.reason, **final_numbers(event)}))
        if event.reason == "failed":
            self._run.set_status(self._trace.StatusCode.ERROR)
        self._end(self._run, event.time)

    def _begin(self, name: str, parent: Any, began: float, facts: dict[str, Any]) -> Any:
        context = None if parent is None else self._trace.set_span_in_context(parent)
        nanoseconds = int(began * 1e9)
        return self._tracer.start_span(name, context, attributes=facts, start_time=nanoseconds)

    def _end(self, span: Any, time: float) -> None:
        span.end(int(time * 1e9))
        self._n_ended += 1
        if self._n_ended >= _FLUSH_SPANS:
            self.flush()


def _prefixed(facts: dict[str, Any]) -> dict[str, Any]:
    return {f"leadline.{key}": value for key, value in facts.items() if value is not None}
