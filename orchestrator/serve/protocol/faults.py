"""The errors that clients get: the protocol's error objects, with its types and codes.

The one rule: what a client reads comes from its own request or from a fixed text; causes inside the
service are logged under the request's id and never sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


@dataclass(slots=True)
class Fault(Exception):
    """A request that is not served, as an HTTP status and the protocol's error object."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_seconds: int = 0
    cause: str = ""  # for the log
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        """The error object."""
        kind = _TYPES.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def all_headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        retry = {"Retry-After": str(self.retry_after_seconds)} if self.retry_after_seconds else {}
        return self.headers | retry


def invalid(message: str, param: str | None = None, code: str | None = None) -> Fault:
    """Return the fault of a request that is wrong."""
    return Fault(400, message, code, param)


def missing(what: str, name: str) -> Fault:
    """Return the fault of a request for something that is not there."""
    return Fault(404, f"there is no {what} {name[:200]!r}", "not_found")


def busy(message: str, seconds: int, code: str = "rate_limit_exceeded") -> Fault:
    """Return the fault of a request that may be sent again after some seconds."""
    return Fault(429, message, code, retry_after_seconds=max(1, seconds))


def broken(cause: str, status: int = 500) -> Fault:
    """Return the fault of a request that failed inside the service or its engine."""
    return Fault(status, "the model could not serve this request", "engine_error", cause=cause)


def shutting_down() -> Fault:
    """Return the fault of a request that comes, or is still open, when the service ends."""
    return Fault(503, "the service is shutting down", "unavailable", retry_after_seconds=5)
