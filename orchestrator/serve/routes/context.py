"""What every route uses: the service, its readers and its records; and how bodies are decoded."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from orchestrator.core.values import Result
from orchestrator.serve.protocol.faults import invalid
from orchestrator.serve.protocol.questions import Question, QuestionReader
from orchestrator.serve.running.exchange import Exchange
from orchestrator.serve.running.service import Service
from orchestrator.serve.running.spans import Tracing
from orchestrator.serve.telemetry import Metrics

if TYPE_CHECKING:
    from orchestrator.serve.batches.runner import Batches


@dataclass(slots=True, eq=False)
class Context:
    """The parts of a running service; `begun` is called with each question before it is asked."""

    service: Service
    reader: QuestionReader
    metrics: Metrics
    batches: Batches | None = None
    begun: Callable[[Question], None] = lambda question: None
    logs_texts: bool = False
    tracing: Tracing = field(default_factory=Tracing)

    def texts(self, exchange: Exchange, result: Result) -> dict[str, object]:
        """Return the texts of a request for the log; none unless they were asked for."""
        if not self.logs_texts:
            return {}
        answer = None if result.answer is None else result.answer.text
        return {"prompt": exchange.problem.prompt, "answer": answer}


def context_of(request: Request) -> Context:
    """Return the context of a request's service."""
    context: Context = request.app.state.context
    return context


class StrictRequest(Request):
    """A request whose JSON is read strictly: no NaN, no half of a character."""

    async def json(self) -> Any:
        """Return the body; Fault 400 if it is not JSON."""
        if not hasattr(self, "_json"):
            try:
                self._json = msgspec.json.decode(await self.body())
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise invalid(
                    f"the body is not valid JSON: {error}", code="invalid_json"
                ) from error
        return self._json


class StrictRoute(APIRoute):
    """A route whose bodies are read by `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


class JsonResponse(Response):
    """A JSON response, which msgspec encodes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return msgspec.json.encode(content)
