"""OpenTelemetry spans of served requests: the request, its problem, and the problem's traces.

A request with a `traceparent` header continues the trace of its client. The one rule: ids, names
and numbers only, as in the sink `otel`, by whose variables spans are sent (docs/sinks.md); no text
of a request. OpenTelemetry is imported only where spans are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.core.values import Result, Trace
from orchestrator.runtime.sinks.otel import span_provider
from orchestrator.serve.protocol.faults import Fault
from orchestrator.serve.telemetry import Log


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """The open spans of a request; without a tracer all of it does nothing."""

    tracer: Any = None
    request: Any = None
    problem: Any = None

    def arrived(self, trace: Trace) -> None:
        """Add the span of a trace, which ends now."""
        if self.tracer is None:
            return
        facts = {
            "ordinal": trace.ordinal,
            "purpose": trace.purpose.value,
            "finish": trace.finish.value,
            "model": trace.model,
            "depth": trace.depth,
            "parent": trace.parent,
            "prompt_tokens": trace.usage.prompt_tokens,
            "output_tokens": trace.usage.output_tokens,
            "has_answer": trace.answer is not None,
        }
        now = time.time_ns()
        began = now - int(trace.usage.seconds * 1e9)
        span = _begun(self.tracer, f"trace {trace.purpose.value}", self.problem, began)
        span.set_attributes(_prefixed(facts))
        span.end(now)

    def concluded(self, result: Result, **facts: object) -> None:
        """Describe the problem by its result."""
        if self.tracer is None:
            return
        tokens = {f"output_tokens.{k}": cost.output_tokens for k, cost in result.usage.items()}
        own = {"status": result.status.value, "stopped_by": result.stopped_by or None}
        self.problem.set_attributes(_prefixed(facts | own | tokens))
        if result.error:
            from opentelemetry import trace

            self.problem.set_status(trace.StatusCode.ERROR)


@dataclass(frozen=True, slots=True)
class Tracing:
    """Makes the spans of a service; without a provider none."""

    provider: Any = None

    @contextmanager
    def request(
        self, path: str, headers: Mapping[str, str], id: str, problem_id: str
    ) -> Iterator[RequestSpan]:
        """Yield the spans of a request, which end with the block."""
        if self.provider is None:
            yield RequestSpan()
            return
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = self.provider.get_tracer("leadline")
        above = TraceContextTextMapPropagator().extract(dict(headers))
        facts = {"http.request.method": "POST", "http.route": path, "leadline.request_id": id}
        request = tracer.start_span(f"POST {path}", above, trace.SpanKind.SERVER, facts)
        problem = _begun(tracer, "problem", request, time.time_ns())
        problem.set_attribute("leadline.problem_id", problem_id)
        try:
            yield RequestSpan(tracer, request, problem)
        except Exception as error:
            status = error.status if isinstance(error, Fault) else 500
            request.set_attribute("http.response.status_code", status)
            request.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            problem.end()
            request.end()


@contextmanager
def tracing(is_wanted: bool, log: Log) -> Iterator[Tracing]:
    """Yield what makes spans; at the end those left are sent, and the log has what was lost."""
    if not is_wanted:
        yield Tracing()
        return
    failures: list[int] = []
    provider, is_ours = span_provider(failures)
    flush: Callable[[], None] = provider.shutdown if is_ours else provider.force_flush
    try:
        yield Tracing(provider)
    finally:
        flush()
        if failures:
            log.write("spans", lost=sum(failures))


def _begun(tracer: Any, name: str, parent: Any, began: int) -> Any:
    from opentelemetry import trace

    return tracer.start_span(name, trace.set_span_in_context(parent), start_time=began)


def _prefixed(facts: Mapping[str, object]) -> dict[str, Any]:
    return {f"leadline.{key}": value for key, value in facts.items() if value is not None}
