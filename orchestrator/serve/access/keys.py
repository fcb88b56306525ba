"""API keys and their limits: requests a minute, requests at a time, tokens a day.

The one rule: a key is known by its digest, and compared in constant time; neither the file nor a
log has the key itself. A day is one of UTC, and tokens are counted in memory: a restart begins at
zero.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from orchestrator.core.errors import PlanError
from orchestrator.plan.keys import refuse_unknown
from orchestrator.serve.protocol.faults import Fault, busy

_MINUTE, _DAY = 60.0, 86_400
ANYBODY = "anybody"  # the name of the client where there are no keys
_Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Limit = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the file: its SHA-256, or the variable that holds it; 0 is no limit.

    With `engines`, its holder's commands may use the engines themselves (`serve.sharing`).
    """

    sha256: _Digest = ""
    key_env: str = ""
    requests_per_minute: _Limit = 0
    concurrent: _Limit = 0
    tokens_per_day: _Limit = 0
    engines: bool = False


@dataclass(slots=True, eq=False)
class Client:
    """A key's holder, with what it uses now; times are of the clock `now`.

    The service's own user has no limits: engines of a command's own would have none.
    """

    name: str
    key: Key = Key()
    is_own_user: bool = False
    now: Callable[[], float] = time.time
    n_open: int = 0
    _left: float = field(init=False)
    _at: float = field(init=False)
    _day: int = -1
    _tokens: int = 0

    def __post_init__(self) -> None:
        """Start with all of a minute's requests."""
        self._left, self._at = float(self.key.requests_per_minute), self.now()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request during the block; Fault 429 where it is one too many."""
        self._require_tokens()
        if self.key.concurrent and self.n_open >= self.key.concurrent:
            raise busy(f"this key may have {self.key.concurrent} requests at a time", 1)
        self._take_request()
        self.n_open += 1
        try:
            yield
        finally:
            self.n_open -= 1

    def spend(self, n_tokens: int) -> None:
        """Count tokens of the day."""
        self._begin_day()
        self._tokens += n_tokens

    def _take_request(self) -> None:
        limit, now = self.key.requests_per_minute, self.now()
        if not limit:
            return
        self._left = min(limit, self._left + (now - self._at) * limit / _MINUTE)
        self._at = now
        if self._left < 1:
            wait = (1 - self._left) * _MINUTE / limit
            raise busy(f"this key may send {limit} requests a minute", round(wait + 0.5))
        self._left -= 1

    def _require_tokens(self) -> None:
        self._begin_day()
        limit = self.key.tokens_per_day
        if limit and self._tokens >= limit:
            seconds = _DAY - int(self.now()) % _DAY
            raise busy(f"this key may use {limit:,} tokens a day", seconds, "insufficient_quota")

    def _begin_day(self) -> None:
        day = int(self.now()) // _DAY
        if day != self._day:
            self._day, self._tokens = day, 0


class KeyRing:
    """The clients of a service; without keys everybody is one client without limits."""

    def __init__(self, keys: dict[str, Key] | None = None, anybody: Client | None = None) -> None:
        """Read the keys that are in variables; PlanError if one is not set."""
        self._clients = {
            _digest(name, key): Client(name, key) for name, key in (keys or {}).items()
        }
        everybody = anybody or Client(ANYBODY, Key(engines=True))
        self._anybody = None if keys else everybody

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._anybody is not None

    def client(self, authorization: str) -> Client:
        """Return the client of a header; Fault 401 without a known key."""
        if self._anybody is not None:
            return self._anybody
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # every one is compared, so that time tells nothing
        found = [c for known, c in self._clients.items() if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not found:
            raise Fault(
                401,
                "send a valid API key: Authorization: Bearer KEY",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found[0]

    def named(self, name: str) -> Client | None:
        """Return the client of a name, such as the owner of a batch."""
        known = [*self._clients.values(), *filter(None, [self._anybody])]
        return next((client for client in known if client.name == name), None)


def own_user() -> Client:
    """Return the client on a socket that only the service's own user can reach."""
    return Client("socket", Key(engines=True), is_own_user=True)


def read_keys(path: Path) -> KeyRing:
    """Return the keys of a TOML file with one table a key; PlanError for any mistake in it."""
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from error
    if not tables:
        raise PlanError(f"{path} has no keys; write one table a key: [NAME] sha256 = '...'")
    return KeyRing({name: _key(path, name, table) for name, table in tables.items()})


def _key(path: Path, name: str, table: Any) -> Key:
    if not isinstance(table, dict):
        raise PlanError(f"{path}: {name} must be a table: [{name}] and its keys below")
    refuse_unknown(table, Key.__dataclass_fields__, f"{path}: {name}")
    try:
        key = msgspec.convert(table, Key)
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: {name}: {error}") from error
    if bool(key.sha256) == bool(key.key_env):
        raise PlanError(
            f"{path}: {name} needs one of sha256, the SHA-256 of the key in hex, and key_env, the "
            "variable that holds the key"
        )
    return key


def _digest(name: str, key: Key) -> str:
    if key.sha256:
        return key.sha256
    value = os.environ.get(key.key_env, "").strip()
    if not value:
        raise PlanError(f"key {name}: the variable {key.key_env} is not set")
    return hashlib.sha256(value.encode()).hexdigest()
