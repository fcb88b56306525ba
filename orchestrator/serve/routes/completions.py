"""/v1/models, and what answers: /v1/chat/completions, /v1/completions and /v1/responses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from orchestrator.jobs.openai_batch import named_pools
from orchestrator.serve.access.keys import Client
from orchestrator.serve.protocol.bodies import ChatBody, CompletionBody, ResponsesBody
from orchestrator.serve.protocol.names import pool_and_settings
from orchestrator.serve.protocol.questions import Question
from orchestrator.serve.protocol.replies import Answered, answered, completion
from orchestrator.serve.protocol.responses.events import ResponseEvents
from orchestrator.serve.protocol.responses.reply import response
from orchestrator.serve.protocol.responses.request import chat_of
from orchestrator.serve.protocol.streams import Chunks, Events, streamed
from orchestrator.serve.routes.connection import ClientGone, EventStream, while_connected
from orchestrator.serve.routes.context import JsonResponse, StrictRoute, context_of
from orchestrator.serve.running.exchange import Exchange
from orchestrator.serve.running.service import GONE
from orchestrator.serve.running.spans import RequestSpan

router = APIRouter(route_class=StrictRoute)
JSON = dict[str, Any]


@router.get("/v1/models")
async def models(request: Request) -> JSON:
    """List the models that answer."""
    names = named_pools(context_of(request).service.plan.models)
    return {"object": "list", "data": [_card(name) for name in names]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> JSON:
    """Describe one model, which may name a depth and a strategy too."""
    pool_and_settings(name, context_of(request).service.plan)
    return _card(name)


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatBody) -> Response:
    """Answer a chat."""
    return await _answer(request, body, "chatcmpl-")


@router.post("/v1/completions")
async def complete(request: Request, body: CompletionBody) -> Response:
    """Answer a text."""
    return await _answer(request, body, "cmpl-")


@router.post("/v1/responses")
async def respond(request: Request, body: ResponsesBody) -> Response:
    """Answer a conversation; nothing is kept of it."""

    def events(question: Question, created: int) -> Events:
        return ResponseEvents(question, created, body)

    def reply(answer: Answered) -> JSON:
        return response(answer, body)

    return await _answer(request, chat_of(body), "resp_", reply, events)


async def _answer(
    request: Request,
    body: ChatBody | CompletionBody,
    prefix: str,
    reply: Callable[[Answered], JSON] = completion,
    events: Callable[[Question, int], Events] = Chunks,
) -> Response:
    """Answer a body; `reply` and `events` are how its protocol says it, at once or in a stream."""
    context = context_of(request)
    id = f"{prefix}{uuid.uuid4().hex}"
    question = context.reader.read(body, id)
    client: Client = request.state.client
    with ExitStack() as stack:
        span = stack.enter_context(
            context.tracing.request(request.url.path, request.headers, request.state.request_id, id)
        )
        stack.enter_context(client.admitted())
        context.begun(question)
        exchange = context.service.submit(question)
        exchange.on_trace = span.arrived
        stack.callback(context.service.stop, exchange, GONE)
        created = int(time.time())

        async def finished() -> Answered:
            return await _finished(request, exchange, question, created, span)

        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            stream = streamed(exchange, events(question, created), finished, with_usage)
            return EventStream(stream, stack.pop_all().close)
        try:
            return JsonResponse(reply(await while_connected(request, finished())))
        except ClientGone:
            return Response(status_code=499)


async def _finished(
    request: Request, exchange: Exchange, question: Question, created: int, span: RequestSpan
) -> Answered:
    context = context_of(request)
    result = await exchange.result
    span.concluded(result, model=question.model, strategy=question.strategy)
    n_tokens = sum(u.prompt_tokens + u.output_tokens for u in result.usage.values())
    request.state.client.spend(n_tokens)
    request.state.log = {
        "answer_id": question.problem.id,
        "model": question.model,
        "strategy": question.strategy,
        "status_of_answer": result.status.value,
        "attempts": result.n_attempts,
        "tokens": n_tokens,
        "stopped_by": result.stopped_by,
        **context.texts(exchange, result),
    }
    return answered(question, result, exchange.traces, created, context.service.execution.prices)


def _card(name: str) -> JSON:
    return {"id": name, "object": "model", "created": 0, "owned_by": "leadline"}
