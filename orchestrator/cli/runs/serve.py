"""`leadline serve`: a plan behind the OpenAI protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from orchestrator.cli.console import message
from orchestrator.cli.inputs import read_plan, report_choice, run_name
from orchestrator.cli.options import DisplayOptions, PlanCommand, debug_option
from orchestrator.core.errors import PlanError
from orchestrator.plan.file import LoadedPlan

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


@click.command(
    cls=PlanCommand,
    accepts=lambda key: not key.startswith(("columns.", "batch.", "sinks")),
    without=("problems", "format", "out"),
)
@click.argument("plan_file", required=False, type=click.Path(), metavar="[PLAN.toml]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8321,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="KEYS.toml",
    help="API keys with their limits; required to listen to other machines.",
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep every request with its traces, as a job directory.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Offer /v1/files and /v1/batches, which are kept here.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Requests that may wait; more get status 429.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Most attempts that a request may plan.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Time that open requests have after SIGTERM or Ctrl-C.",
)
@click.option(
    "--otel",
    is_flag=True,
    help="Send OpenTelemetry spans of requests, as its variables say (docs/sinks.md).",
)
@click.option("--log-texts", is_flag=True, help="Also log the texts of requests and answers.")
@debug_option
def serve(
    plan_file: str | None,
    flags: Mapping[str, str],
    host: str,
    port: int,
    keys: Path | None,
    journal: Path | None,
    data: Path | None,
    max_waiting: int,
    max_attempts: int,
    drain_seconds: float,
    otel: bool,
    log_texts: bool,
) -> int:
    """Serve a plan to clients of the OpenAI protocol.

    A request is explored by the plan's strategy, or by the one that its model's name or its object
    `leadline` asks for (docs/serve.md). The log is one JSON object a line on the error stream.
    Commands of the same user and plan find the server, and use its engines.

    \b
    Example:
      leadline serve --model smollm2 --execution.engine vllm --data served
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise PlanError(
            f"{missing[0]} is not installed; install it with: pip install leadline[serve]"
        )
    if otel and find_spec("opentelemetry") is None:
        raise PlanError("--otel needs OpenTelemetry: pip install leadline[otel]")
    from orchestrator.serve.routes.app import Limits
    from orchestrator.serve.server import ServerOptions, key_ring, serve_until_signal

    limits = Limits(max_waiting=max_waiting, max_attempts=max_attempts)
    options = ServerOptions(host, port, keys, journal, data, limits, drain_seconds, log_texts, otel)
    key_ring(options)  # before an engine starts
    loaded = read_plan(plan_file, flags)
    _require_served(loaded)
    report_choice(loaded.plan, DisplayOptions())
    name = run_name(loaded.plan, loaded.execution)

    def started(address: str) -> None:
        message(f"serving {name} at {address}")

    asyncio.run(serve_until_signal(loaded.plan, loaded.execution, options, started))
    return 0


def _require_served(loaded: LoadedPlan) -> None:
    """Raise PlanError for what a plan sets and a service does not do."""
    if loaded.execution.sinks:
        raise PlanError(
            "sinks report a job, and a service has none: remove them; its metrics are at /metrics"
        )
    if not loaded.override:
        raise PlanError(
            "batch.override = false is for files of problems: whoever sends a request decides what "
            "it sets; remove it"
        )
