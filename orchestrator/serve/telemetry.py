"""What the service tells its operators: Prometheus metrics, and a log of one JSON object a line.

The one rule: no text of a request and no key is in either; names of keys and ids of requests are.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from orchestrator.core.values import Result, Trace
from orchestrator.core.votes import VOTING

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_DEPTHS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "leadline_requests", "Requests by status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "leadline_request_seconds",
            "Time until the whole reply was sent.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "leadline_output_tokens", "Generated tokens by purpose.", ["purpose"], registry=registry
        )
        self.saved = Counter(
            "leadline_saved_tokens",
            "Output tokens that full sampling would have taken in addition.",
            registry=registry,
        )
        self.attempts = Counter(
            "leadline_attempts", "Attempts by what became of them.", ["state"], registry=registry
        )
        self.votes = Counter(
            "leadline_votes", "Votes: decided, tied, or without answer.", ["end"], registry=registry
        )
        self.depth = Histogram(
            "leadline_depth", "Latent depth of attempts.", buckets=_DEPTHS, registry=registry
        )
        self.waiting = Gauge(
            "leadline_waiting", "Requests that no engine works on yet.", registry=registry
        )
        self.open = Gauge("leadline_open", "Requests without a result.", registry=registry)
        self.running = Gauge(
            "leadline_running", "Requests to the engine in flight.", registry=registry
        )

    def count(self, result: Result) -> None:
        """Count a result."""
        for purpose, usage in result.usage.items():
            self.tokens.labels(str(purpose)).inc(usage.output_tokens)
        used = sum(usage.output_tokens for usage in result.usage.values())
        self.saved.inc(max(0.0, (result.full_tokens or used) - used))
        for state, n in result.attempts.items():
            self.attempts.labels(str(state).replace(" ", "_")).inc(n)
        end = "none" if result.answer is None else "tied" if result.tied else "decided"
        self.votes.labels(end).inc()

    def count_direct(self, trace: Trace) -> None:
        """Count a trace that a command explores on its own side."""
        self.tokens.labels(str(trace.purpose)).inc(trace.usage.output_tokens)
        self.count_trace(trace)

    def count_trace(self, trace: Trace) -> None:
        """Count the depth of an attempt."""
        if trace.depth is not None and trace.purpose in VOTING:
            self.depth.observe(trace.depth)

    def text(self) -> bytes:
        """Return all of them in the format of Prometheus."""
        return bytes(generate_latest(self.registry))


class Log:
    """Writes events as JSON lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to a stream, or else to the error stream."""
        self._stream = stream

    def write(self, event: str, **fields: object) -> None:
        """Write an event with its fields; those that are None or "" are left out."""
        known = {name: value for name, value in fields.items() if value not in (None, "")}
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = msgspec.json.encode({"time": at, "event": event, **known}).decode()
        stream = self._stream or sys.stderr
        stream.write(f"{line}\n")
        stream.flush()


def quiet_others() -> None:
    """Keep what libraries say about requests out of the log, which has one line for each."""
    for name in ("uvicorn.access", "uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
