"""/v1/files and /v1/batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import IO, Annotated, Any

from fastapi import APIRouter, File, Form, Header, Query, Request, UploadFile
from starlette.responses import FileResponse

from orchestrator.serve.batches.runner import Batches
from orchestrator.serve.batches.store import BatchRecord, batch_id
from orchestrator.serve.protocol.bodies import BatchBody
from orchestrator.serve.protocol.faults import Fault
from orchestrator.serve.routes.context import StrictRoute, context_of

router = APIRouter(route_class=StrictRoute)
JSON = dict[str, Any]
_Limit = Annotated[int, Query(ge=1, le=100)]
_CHUNK = 1 << 20


@router.post("/v1/files")
async def upload(
    request: Request,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form(max_length=64)],
) -> JSON:
    """Store a file."""
    name = (file.filename or "file")[:255]
    store, owner = _batches(request).store, _owner(request)
    return await asyncio.to_thread(store.add_file, owner, name, purpose, _parts(file.file))


@router.get("/v1/files")
async def files(request: Request, limit: _Limit = 100, after: str | None = None) -> JSON:
    """List the files."""
    records = _batches(request).store.files(_owner(request))
    return _page([record.document() for record in records], limit, after)


@router.get("/v1/files/{id}")
async def file(request: Request, id: str) -> JSON:
    """Describe a file."""
    return _batches(request).store.file(id, _owner(request)).document()


@router.get("/v1/files/{id}/content")
async def content(request: Request, id: str) -> FileResponse:
    """Return what a file contains."""
    store = _batches(request).store
    path = store.content(store.file(id, _owner(request)))
    return FileResponse(path, media_type="application/octet-stream")


@router.delete("/v1/files/{id}")
async def remove(request: Request, id: str) -> JSON:
    """Delete a file; a batch that was created from it has its own copy."""
    _batches(request).store.remove_file(id, _owner(request))
    return {"id": id, "object": "file", "deleted": True}


@router.post("/v1/batches")
async def create(
    request: Request,
    body: BatchBody,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> JSON:
    """Begin a batch; with the same Idempotency-Key, return the one that it began."""
    owner = _owner(request)
    record = BatchRecord(
        batch_id(owner, idempotency_key),
        owner,
        body.endpoint,
        body.input_file_id,
        body.completion_window,
        int(time.time()),
        metadata=body.metadata,
    )
    return _batches(request).create(record).document()


@router.get("/v1/batches")
async def batches(request: Request, limit: _Limit = 20, after: str | None = None) -> JSON:
    """List the batches."""
    known, owner = _batches(request), _owner(request)
    records = [known.batch(record.id, owner) for record in known.store.batches(owner)]
    return _page([record.document() for record in records], limit, after)


@router.get("/v1/batches/{id}")
async def batch(request: Request, id: str) -> JSON:
    """Describe a batch."""
    return _batches(request).batch(id, _owner(request)).document()


@router.post("/v1/batches/{id}/cancel")
async def cancel(request: Request, id: str) -> JSON:
    """Cancel a batch."""
    return _batches(request).cancel(id, _owner(request)).document()


def _batches(request: Request) -> Batches:
    found = context_of(request).batches
    if found is None:
        raise Fault(501, "this service keeps no files: start it with --data DIR", "no_files")
    return found


def _owner(request: Request) -> str:
    return str(request.state.client.name)


def _page(documents: list[JSON], limit: int, after: str | None) -> JSON:
    ids = [document["id"] for document in documents]
    start = ids.index(after) + 1 if after in ids else 0
    page = documents[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(documents),
    }


def _parts(source: IO[bytes]) -> Iterator[bytes]:
    while part := source.read(_CHUNK):
        yield part
