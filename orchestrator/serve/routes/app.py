"""The application: routes behind the front, with the protocol's error objects for every error."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from orchestrator.serve.access.keys import KeyRing
from orchestrator.serve.front import Front
from orchestrator.serve.protocol.faults import Fault, invalid
from orchestrator.serve.routes import batches, completions, engine, health
from orchestrator.serve.routes.context import Context, JsonResponse
from orchestrator.serve.telemetry import Log, Metrics

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a client may send and make wait."""

    body_bytes: int = 8 * _MIB
    file_bytes: int = 512 * _MIB
    max_waiting: int = 256
    max_attempts: int = 256


def application(
    context: Context, keys: KeyRing, metrics: Metrics, log: Log, limits: Limits
) -> Front:
    """Return the ASGI application of a running service."""
    app = FastAPI(title="Leadline", version="1", docs_url=None, redoc_url=None)
    app.state.context = context
    routers = [completions.router, batches.router, engine.router, health.router]
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Fault, _faulty)
    known = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    def path_of(path: str) -> str:
        return next((route.path for route in known if route.path_regex.match(path)), "other")

    return Front(app, keys, metrics, log, limits.body_bytes, limits.file_bytes, path_of)


async def _faulty(request: Request, error: Exception) -> JsonResponse:
    assert isinstance(error, Fault)
    request.state.cause = error.cause
    return JsonResponse(error.body, error.status, error.all_headers())


async def _invalid(request: Request, error: Exception) -> JsonResponse:
    assert isinstance(error, RequestValidationError)
    [first, *_] = error.errors()
    place = ".".join(str(part) for part in first["loc"][1:])
    fault = invalid(f"{place or 'the body'}: {first['msg']}", place or None, "invalid_value")
    return await _faulty(request, fault)


async def _refused(request: Request, error: Exception) -> JsonResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Fault):  # raised while FastAPI read the body
        return await _faulty(request, error.__cause__)
    names = {404: "there is no such path", 405: "this path does not take that method"}
    message = names.get(error.status_code, "the request cannot be read")
    fault = Fault(error.status_code, message, headers=dict(error.headers or {}))
    return await _faulty(request, fault)
