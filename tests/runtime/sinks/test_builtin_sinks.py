"""The built-in sinks against the real libraries: what is in the tracker after a run.

OpenTelemetry and Prometheus are always tested. MLflow, Weights & Biases and Trackio are large and
are tested where they are installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import orchestrator
from orchestrator import Execution, Plan, PluginSpec
from orchestrator.plan import registry
from orchestrator.testing import check_sink

HEAVY = "needs versions that the lock file excludes: pip install 'leadline[{}]'"
PLAN = Plan(strategy={"name": "consistency", "n": 3}, domain="number")


def load(name: str, **options: object) -> Any:
    return registry.load("sinks", PluginSpec(name, options))


def run(*sinks: Any, n: int = 4, out: Path | None = None) -> orchestrator.Results:
    questions = [f"{i} + {i}?" for i in range(n)]
    return orchestrator.run(questions, PLAN, Execution("fake", sinks=sinks), out=out)


def tokens(results: orchestrator.Results) -> int:
    return sum(u.output_tokens for r in results for u in r.usage.values())


# --- Prometheus


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Return the samples of a file by name and labels, as Prometheus's own parser reads them."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "run")): sample.value
        for family in parser.text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_prometheus_keeps_the_contract_and_leaves_one_file(tmp_path: Path) -> None:
    """The collector reads every file that ends in .prom, so no other may be left."""
    check_sink(load("prometheus", path=str(tmp_path / "a.prom")))
    assert [p.name for p in tmp_path.iterdir()] == ["a.prom"]


def test_a_prometheus_file_has_the_numbers_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    results = run({"name": "prometheus", "path": str(path)})
    found = samples(path)
    assert found["leadline_problems",] == found["leadline_problems_done", "answered"] == 4
    assert found["leadline_traces_total", "", "stop", "solve"] == 12
    assert found["leadline_trace_tokens_count", "solve"] == 12
    assert found["leadline_trace_tokens_sum", "solve"] == tokens(results)
    assert found["leadline_trace_tokens_bucket", "+Inf", "solve"] == 12
    assert ("leadline_run_ended_seconds", "done") in found


# --- OpenTelemetry


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exporter of a program that has set up OpenTelemetry itself."""
    pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def test_otel_keeps_the_contract(spans: Any) -> None:
    check_sink(load("otel"))
    assert all(span.end_time >= span.start_time for span in spans.get_finished_spans())


def test_spans_are_run_over_problem_over_trace(spans: Any) -> None:
    """With times inside their parents', tokens that add up, and no text of anybody."""
    results = run("otel")
    by_id = {span.context.span_id: span for span in spans.get_finished_spans()}
    parents = {
        span.name: by_id[span.parent.span_id].name if span.parent else "" for span in by_id.values()
    }
    root = "run consistency"
    assert parents == {root: "", "problem": root, "trace solve": "problem"}
    assert Counter(span.name for span in by_id.values()) == {
        root: 1,
        "problem": 4,
        "trace solve": 12,
    }
    assert len({span.context.trace_id for span in by_id.values()}) == 1
    leaves = [span for span in by_id.values() if span.name == "trace solve"]
    assert sum(s.attributes["leadline.output_tokens"] for s in leaves) == tokens(results)
    problem = next(span for span in by_id.values() if span.name == "problem")
    assert problem.attributes["leadline.status"] == "answered"
    run_span = next(span for span in by_id.values() if not span.parent)
    assert run_span.attributes["leadline.strategy.n"] == 3
    assert run_span.attributes["leadline.reason"] == "done"
    assert not any("+" in str(v) for s in by_id.values() for v in s.attributes.values())


class Collector(BaseHTTPRequestHandler):
    """An OTLP server: it counts spans by name."""

    names: ClassVar[Counter[str]] = Counter()
    services: ClassVar[set[str]] = set()
    status = 200

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.services.add(attributes["service.name"])
            self.names.update(s.name for scope in resource.scope_spans for s in scope.spans)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    handler = type("Fresh", (Collector,), {"names": Counter(), "services": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        yield handler
        server.shutdown()
        thread.join()


def test_otlp_goes_where_the_standard_variables_say(collector: type[Collector]) -> None:
    run("otel", n=700)  # more spans than the SDK's queue has room for
    assert collector.names == {"run consistency": 1, "problem": 700, "trace solve": 2100}
    assert collector.services == {"leadline"}


def test_spans_that_a_collector_refuses_are_counted(collector: type[Collector]) -> None:
    """The SDK would only log it."""
    collector.status = 400
    with pytest.warns(UserWarning, match="sink 'otel' failed.*17 spans could not be exported"):
        run("otel")


# --- the large ones, in processes of their own: each keeps global state


def in_process(code: str, folder: Path) -> Any:
    """Run code in a process of its own and return the JSON list that it prints.

    `check_sink` lets a library print what it likes; a run does not.
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [line] = [one for one in done.stdout.splitlines() if one.startswith("[")]
    return json.loads(line)


JOB = """
import json
import orchestrator
from orchestrator import Execution, Plan, PluginSpec
from orchestrator.plan import registry
from orchestrator.testing import check_sink
name, options, checked = {name!r}, {options!r}, {checked!r}
check_sink(registry.load("sinks", PluginSpec(name, options | checked)))
plan = Plan(strategy=dict(name="consistency", n=3), domain="number")
for n in (2, 4):
    questions = [str(i) for i in range(n)]
    execution = Execution("fake", sinks=[dict(options, name=name)])
    orchestrator.run(questions, plan, execution, out="job")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_is_one_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store of files, which `mlflow-skinny` has; the job is resumed, and so is the run."""
    pytest.importorskip("mlflow", reason=HEAVY.format("mlflow"), exc_type=ImportError)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = {"tracking_uri": f"file:{tmp_path}/store", "experiment": "sums"}
    code = (
        JOB.format(name="mlflow", options=place, checked={"experiment": "check"})
        + """
from mlflow import MlflowClient
client = MlflowClient(options["tracking_uri"])
experiment = client.get_experiment_by_name("sums")
[run] = client.search_runs([experiment.experiment_id])
steps = [m.step for m in client.get_metric_history(run.info.run_id, "problems_done")]
print(json.dumps([run.info.status, run.data.params["strategy.n"], max(steps), run.data.metrics]))
"""
    )
    status, n, step, metrics = in_process(code, tmp_path)
    assert (status, n, step) == ("FINISHED", "3", 4)
    assert metrics["final/problems_answered"] == 4
    assert metrics["final/output_tokens"] == metrics["final/output_tokens_solve"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_is_one_run_of_weights_and_biases_offline(tmp_path: Path) -> None:
    """Two files of one run, which `wandb sync` puts together by its id."""
    pytest.importorskip("wandb", reason=HEAVY.format("wandb"), exc_type=ImportError)
    place = {"mode": "offline", "folder": str(tmp_path)}
    code = (
        JOB.format(name="wandb", options=place, checked={"project": "check"})
        + """
import glob, pathlib, struct
from wandb.proto import wandb_internal_pb2 as pb
runs, rows, summary = [], [], {}
def records(data):  # the format of LevelDB's log, after a head of 7 bytes
    at, parts = 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
def values(items):
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
for path in sorted(glob.glob("wandb/offline-run-*/*.wandb")):
    for data in records(pathlib.Path(path).read_bytes()):
        record = pb.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            runs.append([record.run.project, record.run.run_id])
        if kind == "history" and runs[-1][0] == "leadline":
            rows.append(values(record.history.item))
        if kind == "summary" and runs[-1][0] == "leadline":
            summary |= values(record.summary.update)
print(json.dumps([runs, rows, summary]))
"""
    )
    runs, rows, summary = in_process(code, tmp_path)
    ours = [id for project, id in runs if project == "leadline"]
    assert len(ours) == 2
    assert len(set(ours)) == 1
    assert {row["problems_done"] for row in rows} == {2, 4}
    assert summary["final/problems_answered"] == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_is_one_trackio_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason=HEAVY.format("trackio"), exc_type=ImportError)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    place = {"project": "sums"}
    code = (
        JOB.format(name="trackio", options=place, checked={"project": "check"})
        + """
import sqlite3
rows = sqlite3.connect("trackio/sums.db").execute("select run_name, metrics from metrics")
print(json.dumps([[name, json.loads(metrics)] for name, metrics in rows]))
"""
    )
    rows = in_process(code, tmp_path)
    assert len({name for name, _ in rows}) == 1
    assert rows[-1][1]["problems_done"] == rows[-1][1]["final/problems_answered"] == 4
