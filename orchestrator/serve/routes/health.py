"""/health, /ready and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from orchestrator.serve.protocol.faults import Fault
from orchestrator.serve.routes.context import JsonResponse, context_of

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Tell that the process serves."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Tell whether requests are answered now."""
    service = context_of(request).service
    if service.fault:
        raise Fault(503, service.fault, "unavailable", retry_after_seconds=5)
    waiting = {"waiting": service.n_waiting, "full": service.is_full}
    return JsonResponse({"status": "ready", **waiting})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics in the format of Prometheus."""
    context = context_of(request)
    known, service = context.metrics, context.service
    known.waiting.set(service.n_waiting)
    known.open.set(service.n_open)
    known.running.set(service.n_running)
    return Response(known.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
