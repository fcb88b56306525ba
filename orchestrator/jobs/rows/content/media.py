"""Images, sounds and videos of rows: where they may be, and local files as data.

The one rule: a problem refers to data or to an address, never to a file of this machine. A file is
read only below the folder that `columns.media` names, and becomes data in the job's copy of the
rows; so no engine opens files, and a job keeps its media. Not covered: whether a model can decode
them, which only its processor knows.
"""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# the content parts of the OpenAI API and of vLLM, and the kind that a file for each must be
PARTS: Mapping[str, str] = {
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
}
FIELD = "_media"  # of a row, for what an image column has: a list of content parts
MAX_BYTES = 64 << 20  # of one medium: a minute of video; more is a mistake
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
# by what images begin with: columns of bytes have no name
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


class MediaFault(Exception):
    """Why a medium cannot be used."""


def require_known(kind: str, body: object) -> str:
    """Return the body of a part as JSON; MediaFault unless it has data or an http(s) address."""
    if not isinstance(body, dict):
        raise MediaFault("it must be an object")
    if kind == "input_audio":
        if not isinstance(body.get("format"), str) or not isinstance(body.get("data"), str):
            raise MediaFault("it must have 'data', in base64, and 'format'")
        _require_base64(body["data"])
        return json.dumps(body, sort_keys=True)
    url = body.get("url")
    if not isinstance(url, str):
        raise MediaFault("it must have a 'url'")
    if url[:5].lower() == "data:":
        _require_base64(_data(url))
    elif not re.match(r"https?://", url, re.IGNORECASE):
        raise MediaFault(
            f"{url[:80]!r} is neither a data: URI nor an http address; local files are read where "
            "columns.media names the folder that they are in"
        )
    return json.dumps(body, sort_keys=True)


def with_files(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a row whose messages have data instead of the local files below a folder.

    MediaFault for a file that is missing, outside of it, too large or of another kind.
    """
    messages = fields.get("messages")
    if not isinstance(messages, list):
        return dict(fields)
    return {**fields, "messages": [_with_files(message, folder) for message in messages]}


def _with_files(message: Any, folder: Path) -> Any:
    parts = message.get("content") if isinstance(message, dict) else None
    if not isinstance(parts, list):
        return message
    return {**message, "content": [_with_file(part, folder) for part in parts]}


def _with_file(part: Any, folder: Path) -> Any:
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    body = part.get(kind) if kind in PARTS else None
    url = body.get("url") if isinstance(body, dict) else body
    if kind == "input_audio" or not isinstance(url, str) or not _is_local(url):
        return part
    own = body if isinstance(body, dict) else {}
    return {**part, kind: {**own, "url": _file_uri(url, folder, PARTS[kind])}}


def image_part(value: object, folder: Path | None) -> dict[str, Any]:
    """Return the content part of an image column's cell, which has a path, an address or bytes.

    Hugging Face's data sets have both in a table, {"bytes": ..., "path": ...}. MediaFault.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return _image(data_uri(value, _image_type(value)))
    if not isinstance(value, str) or not value:
        raise MediaFault("it must have a path, an address or bytes")
    if not _is_local(value):
        return _image(value)
    if folder is None:
        raise MediaFault(
            f"{value[:80]!r} is a local file; columns.media must name the folder that it is in"
        )
    return _image(_file_uri(value, folder, "image"))


def data_uri(content: bytes, media_type: str) -> str:
    """Return content as a data: URI; MediaFault for more than `MAX_BYTES`."""
    if len(content) > MAX_BYTES:
        raise MediaFault(f"it has {len(content):,} bytes; the most is {MAX_BYTES:,}")
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _is_local(url: str) -> bool:
    scheme = _SCHEME.match(url)
    return scheme is None or scheme[0].lower() == "file:"


def _file_uri(url: str, folder: Path, kind: str) -> str:
    text = unquote(urlsplit(url).path) if _SCHEME.match(url) else url
    root = folder.resolve()
    path = (root / text).resolve()  # also of links
    if not path.is_relative_to(root):
        raise MediaFault(f"{text!r} is not below {folder}, the folder of columns.media")
    media_type = mimetypes.guess_type(path.name)[0] or ""
    if media_type.partition("/")[0] != kind:
        raise MediaFault(f"the name of {text!r} is not that of {_A[kind]} file")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MediaFault(f"{text!r} has more than {MAX_BYTES:,} bytes")
        return data_uri(path.read_bytes(), media_type)
    except OSError as error:
        raise MediaFault(f"{text!r} cannot be read from {folder}: {error.strerror}") from error


_A = {"image": "an image", "audio": "a sound", "video": "a video"}


def _image_type(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    found = (kind for start, kind in _SIGNATURES if content.startswith(start))
    return next(found, "application/octet-stream")


def _data(url: str) -> str:
    match = _DATA.match(url)
    if match is None:
        raise MediaFault(f"{url[:40]!r} is no data: URI in base64, as data:image/png;base64,...")
    return url[match.end() :]


def _require_base64(text: str) -> None:
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise MediaFault(f"it has more than {MAX_BYTES:,} bytes")
    try:
        empty = not base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaFault(f"its data is not base64: {error}") from error
    if empty:
        raise MediaFault("its data is empty")
