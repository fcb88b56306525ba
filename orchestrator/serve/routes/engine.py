"""/v1/leadline/engine: the engine itself, for commands with `--server`. Not part of the protocol.

The one rule: whoever uses it needs a key with `engines = true`, because neither the plan's budget
nor the limit on attempts holds for what a command explores on its own side.
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from orchestrator.serve.access.keys import Client
from orchestrator.serve.protocol.faults import Fault, invalid, shutting_down
from orchestrator.serve.routes.connection import ClientGone, while_connected
from orchestrator.serve.routes.context import JsonResponse, context_of
from orchestrator.serve.sharing.direct import DirectAccess
from orchestrator.serve.sharing.wire import (
    ABORT,
    GENERATE,
    MEDIA_TYPE,
    PATH,
    decode_order,
    encode_trace,
)

router = APIRouter(include_in_schema=False)


@router.get(PATH)
async def describe(request: Request) -> Response:
    """Describe the engine and its plan."""
    access, _ = _access(request)
    if access.is_draining:
        raise shutting_down()
    return JsonResponse(access.description)


@router.post(GENERATE)
async def generate(request: Request) -> Response:
    """Return the trace of an order."""
    access, client = _access(request)
    try:
        order = decode_order(await request.body())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is not an order: {error}", code="order") from error
    try:
        with client.admitted():
            trace = await while_connected(request, access.generate(client, order))
    except ClientGone:
        return Response(status_code=499)
    client.spend(trace.usage.prompt_tokens + trace.usage.output_tokens)
    context_of(request).metrics.count_direct(trace)
    request.state.log = {"tokens": trace.usage.output_tokens, "purpose": str(trace.purpose)}
    return Response(encode_trace(trace), media_type=MEDIA_TYPE)


@router.post(ABORT + "/{id}")
async def abort(request: Request, id: str) -> Response:
    """Stop an order; its reply has the tokens so far."""
    access, client = _access(request)
    access.abort(client.name, id)
    return Response(status_code=204)


def _access(request: Request) -> tuple[DirectAccess, Client]:
    client: Client = request.state.client
    if not client.key.engines:
        raise Fault(403, "this key may not use the engines: it needs engines = true", "engines")
    return context_of(request).service.direct, client
