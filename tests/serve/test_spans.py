"""OpenTelemetry spans of served requests: they hang below those of the client."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from counting_service import ANSWERS, MESSAGES, MODELS, SECONDS, served

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PLAN = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 3}), domain="number")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_with_its_problem_and_its_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """Below the client's span, with tokens that add up, and no text of anybody."""
    pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    with served(PLAN, f"{tmp_path}{stream}", answers=ANSWERS, traces=True) as service:
        place = f"{service.address}/chat/completions"
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        body: Any = {"model": "small", "messages": MESSAGES, "stream": stream}
        with httpx.Client(timeout=SECONDS, headers=headers) as client:
            reply = client.post(place, json=body)
            refused = client.post(place, json=body | {"model": "small+consistency?n=300"})
        assert (reply.status_code, refused.status_code) == (200, 400)
    found = {span.context.span_id: span for span in exporter.get_finished_spans()}
    above = {s.name: getattr(found.get(s.parent.span_id), "name", None) for s in found.values()}
    root = "POST /v1/chat/completions"
    assert above == {root: None, "problem": root, "trace solve": "problem"}
    names = Counter(span.name for span in found.values())
    assert names == {root: 1, "problem": 1, "trace solve": 3}
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    top: Any = next(span for span in found.values() if span.name == root)
    assert f"{top.parent.span_id:016x}" == PARENT
    assert top.attributes["leadline.request_id"] == reply.headers["x-request-id"]
    problem: Any = next(span for span in found.values() if span.name == "problem")
    n_tokens = [s.attributes["leadline.output_tokens"] for s in found.values() if "trace" in s.name]
    assert problem.attributes["leadline.output_tokens.solve"] == sum(n_tokens)
    assert problem.attributes["leadline.status"] == "answered"
    texts = [str(v) for span in found.values() for v in span.attributes.values()]
    assert not any("week" in text for text in texts)
