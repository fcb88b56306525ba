"""What a server's refusals mean: whether to try again, when, and what to show of them.

The one rule: a rate limit, a server error and a lost connection are `Unavailable`, because another
time the same request would be served; what the server says of the request itself is not. Sends
nothing, and does not wait: `orchestrator.engines.supervised` does.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import Unavailable

if TYPE_CHECKING:
    import openai

_MAX_MESSAGE = 500  # characters of a server's error: a sentence, not a page
_TITLE = re.compile(r"<title>([^<]+)", re.IGNORECASE)
_BUSY = frozenset({408, 409, 425, 429})  # and all from 500
_PAYMENT_REQUIRED = 402  # DeepSeek, OpenRouter: the balance is used up
# codes or types of a 429 that no waiting ends: OpenAI's own
_EXHAUSTED = frozenset({"insufficient_quota", "billing_hard_limit_reached", "quota_exceeded"})
# types of what a server says of the request itself, where no status comes with it
_DECLINED = frozenset({"invalid_request_error", "BadRequestError"})
_QUOTA = "; the quota is used up: add credit or raise its limit"


def is_temporary(status: int) -> bool:
    """Tell whether a request that was refused with this status may be served later."""
    return status in _BUSY or status == _PAYMENT_REQUIRED or status >= 500


def unavailable(url: str, error: openai.APIStatusError) -> Unavailable:
    """Return the error of a refusal for which `is_temporary` holds."""
    exhausted = error.status_code == _PAYMENT_REQUIRED or is_exhausted(error.body)
    return Unavailable(
        f"{url} refuses: {message(error)}{_QUOTA if exhausted else ''}",
        retry_after_seconds(error.response.headers),
        exhausted=exhausted,
    )


def error_of(event: object) -> object:
    """Return the error that an event of a stream has, or is; None if there is none."""
    if not isinstance(event, dict):
        return None
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    for holder in (event, first):
        if isinstance(holder, dict) and holder.get("error"):
            return holder["error"]
    # vLLM's former shape and SGLang's: the event is the error
    is_one = choices is None and isinstance(event.get("message"), str)
    return event if is_one else None


def is_temporary_event(error: object) -> bool:
    """Tell the same of an error inside a stream; without a status it is the server's."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()):
        return int(code) < 400 or is_temporary(int(code))
    return not _names(error) & _DECLINED


def is_exhausted(error: object) -> bool:
    """Tell whether an error object says that a quota is used up."""
    code = error.get("code") if isinstance(error, dict) else None
    return code == _PAYMENT_REQUIRED or bool(_names(error) & _EXHAUSTED)


def _names(error: object) -> set[str]:
    return {str(error.get(key)) for key in ("code", "type")} if isinstance(error, dict) else set()


def event_message(error: object) -> str:
    """Return the message of an error inside a stream."""
    text = error.get("message") if isinstance(error, dict) else error
    return shortened(str(text or error)) + (_QUOTA if is_exhausted(error) else "")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the pause that a server requests, as seconds or a date; None without a valid one."""
    texts = ((headers.get("retry-after-ms"), 1e-3), (headers.get("retry-after"), 1.0))
    for text, unit in texts:
        try:
            seconds = float(text or "nan") * unit
        except ValueError:
            seconds = _seconds_until(text or "")
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _seconds_until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return math.nan


def message(error: openai.APIStatusError) -> str:
    """Return the status with the server's own message, or the title of a web page."""
    body: Any = error.body
    text = body.get("message") if isinstance(body, dict) else None
    if not text:
        text = error.response.text
        page = _TITLE.search(text[:_MAX_MESSAGE])  # of a proxy in front of the server, or another
        text = f"a web page, {page[1].strip()!r}" if page else text
    return f"HTTP {error.status_code}: {shortened(str(text))}"


def shortened(text: str) -> str:
    """Return the beginning of a server's message, in one line."""
    return " ".join(text[:_MAX_MESSAGE].split())


def cause(error: BaseException) -> str:
    """Return why a connection was lost; the client's own message is "Connection error."."""
    inner = error if error.__cause__ is None else error.__cause__
    return str(inner).rstrip(" .:") or type(inner).__name__  # more may follow in the same sentence


async def whole_reply(response: Any) -> object:
    """Return a reply that is not a stream, as an error with the status 200 is; None if empty."""
    text = (await response.aread()).strip()
    return json.loads(text) if text else None
