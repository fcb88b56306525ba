"""What is answered at all: requests of this machine's names, with the token, that change nothing.

The one rule: nothing behind it sees another request, and every reply has the strictest headers that
it does not set itself.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NO_TOKEN = "this address has no valid token: open the one that `leadline view` printed"
_HEADERS = {
    "content-security-policy": "default-src 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Refuses what is not to be answered, and adds headers to every reply."""

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str]) -> None:
        """Take what is behind it, and the names of this machine in lower case."""
        self._app, self._token, self._hosts = app, token.encode(), hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                pairs = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(p for p in pairs if p[0] not in known)]
            await send(message)

        await (self._refusal(Request(scope)) or self._app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        if not is_own_host(request.headers.get("host", ""), self._hosts):
            return PlainTextResponse("this host is not served here", 421)
        if request.method != "GET":
            reason = "only GET is answered: everything here is read only"
            return PlainTextResponse(reason, 405, {"allow": "GET"})
        token = request.query_params.get("token", "").encode("utf-8", "replace")
        if not secrets.compare_digest(token, self._token):
            return PlainTextResponse(_NO_TOKEN, 403)
        return None


def is_own_host(header: str, names: Collection[str]) -> bool:
    """Tell whether a Host header is an address or one of these names.

    Another name may be anybody's who lets it resolve to this machine (DNS rebinding).
    """
    name = header.rpartition(":")[0] if header.rpartition("]")[2].count(":") else header
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() in names
    return True
