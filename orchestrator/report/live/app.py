"""The server's answers: the page, and the values that it fetches. Everything is read only.

The one rule: a reply has what a report has, under the same names (`web/src/source/http.ts` fetches
it). Not covered: which requests are answered at all (`guard`), and the port (`serving`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.core.errors import LeadlineError
from orchestrator.plan.execution import Execution
from orchestrator.report.live.guard import Guard
from orchestrator.report.live.query import BadQuery, Query, parsed
from orchestrator.report.live.viewed import Viewed, ViewedJob
from orchestrator.report.page.file import as_json, html_page, policy
from orchestrator.runtime.answer_workers import AnswerWorkers

_LOOK_SECONDS = 0.5  # between two looks for something new
_SIGN_SECONDS = 15.0  # between two signs of life on a quiet stream


def view_app(viewed: Viewed, token: str, hosts: Collection[str]) -> Starlette:
    """Return the application that serves jobs; `hosts` are the names of this machine."""
    page = html_page(viewed.title, token=token)

    async def shell(request: Request) -> Response:
        rules = f"{policy(is_served=True)}; frame-ancestors 'none'"
        return HTMLResponse(page, headers={"content-security-policy": rules})

    async def index(request: Request) -> Response:
        return _json(await asyncio.to_thread(viewed.index))

    async def problems(request: Request) -> Response:
        job, query = _job(request, viewed), _query(request)
        return _json(as_json(await asyncio.to_thread(job.reader.page, query)))

    async def neighbours(request: Request) -> Response:
        job, query, id = _job(request, viewed), _query(request), _id(request)
        return _json(as_json(await asyncio.to_thread(job.reader.neighbours, id, query)))

    async def problem(request: Request) -> Response:
        job, id = _job(request, viewed), _id(request)
        page = await viewed.problem(job, id)
        if page is None:
            raise HTTPException(404, f"{job.directory} has no problem {id!r}")
        return _json(as_json(page))

    async def events(request: Request) -> Response:
        return StreamingResponse(_events(viewed), media_type="text/event-stream")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        seconds = Execution().checker_seconds
        async with aclosing(AnswerWorkers(n_workers=1, limit_seconds=seconds)) as viewed.workers:
            yield

    values = {
        "index": index,
        "problems": problems,
        "problem": problem,
        "neighbours": neighbours,
        "events": events,
    }
    return Starlette(
        routes=[
            Route("/", shell, methods=["GET"]),
            *(Route(f"/api/{name}", value, methods=["GET"]) for name, value in values.items()),
        ],
        middleware=[Middleware(Guard, token=token, hosts=frozenset(hosts))],
        exception_handlers={HTTPException: _refused, LeadlineError: _failed},
        lifespan=lifespan,
    )


async def _events(viewed: Viewed) -> AsyncIterator[bytes]:
    """Yield a message whenever there is something new, and a sign of life now and then."""
    last, quiet = viewed.versions(), 0.0
    yield b": connected\n\n"
    while not viewed.is_ending():
        await asyncio.sleep(_LOOK_SECONDS)
        quiet += _LOOK_SECONDS
        now = await asyncio.to_thread(viewed.versions)
        if now != last:
            last, quiet = now, 0.0
            yield b"data: changed\n\n"
        elif quiet >= _SIGN_SECONDS:
            quiet = 0.0
            yield b": quiet\n\n"


def _job(request: Request, viewed: Viewed) -> ViewedJob:
    text = request.query_params.get("job", "")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise HTTPException(400, "job: it must be the number of a job")
    if int(text) >= len(viewed.jobs):
        raise HTTPException(404, f"there is no job {text} here")
    return viewed.jobs[int(text)]


def _query(request: Request) -> Query:
    try:
        return parsed(request.query_params.get("query", "{}"))
    except BadQuery as error:
        raise HTTPException(400, str(error)) from error


def _id(request: Request) -> str:
    id = request.query_params.get("id")
    if not id:
        raise HTTPException(400, "id: it must be that of a problem")
    return id


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 503)
