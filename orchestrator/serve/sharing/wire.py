"""What a command and the service whose engines it uses send each other: MessagePack, never pickle.

The one rule: a trace arrives as the engine returned it, token ids and all, so that a journal is the
same as with engines of the command's own. Not covered: the connection (`remote`), and who may use
it (`access`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, TypeAlias, get_args, get_type_hints

import msgspec

from orchestrator.core.plan import Plan
from orchestrator.core.values import Request, StopRule, Trace, from_fields
from orchestrator.jobs.journal import stored
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import plan_document, plan_toml

PATH = "/v1/leadline/engine"
GENERATE, ABORT = f"{PATH}/generate", f"{PATH}/abort"
MEDIA_TYPE = "application/msgpack"
_RULES: Mapping[str, Any] = {kind.__name__: kind for kind in get_args(StopRule)}
_FIELDS = tuple(field.name for field in fields(Request))
# rules have no tag of their own, so each is sent with its kind
_Rules: TypeAlias = tuple[tuple[str, dict[str, Any]], ...]
_Fields = msgspec.defstruct(
    "Fields",
    [(n, _Rules if n == "rules" else t) for n, t in get_type_hints(Request).items()],
)


@dataclass(frozen=True, slots=True)
class Description:
    """What a service offers: its plan as TOML, its GPUs, and what fixes its engine."""

    plan: str
    n_gpus: float
    version: str  # of Leadline: both sides must have the same
    digest: str  # of version, models and engine


@dataclass(frozen=True, slots=True)
class Order:
    """A request for the engine of a description; `id` is its name where it is to be aborted."""

    id: str
    digest: str
    is_batch: bool
    request: Request


@dataclass(frozen=True, slots=True)
class _Envelope:
    id: str
    digest: str
    is_batch: bool
    request: msgspec.Raw


def described(plan: Plan, execution: Execution, n_gpus: float) -> Description:
    """Return the description of a service."""
    digest = engine_digest(plan, execution)
    return Description(plan_toml(plan, execution), n_gpus, version("leadline"), digest)


def engine_digest(plan: Plan, execution: Execution) -> str:
    """Return what fixes the engine of a plan: 32 hex digits of version, models and engine."""
    document = plan_document(plan, execution)
    fixed = (version("leadline"), document["models"], msgspec.to_builtins(execution.engine))
    return blake2b(msgspec.json.encode(fixed, order="sorted"), digest_size=16).hexdigest()


def encode_order(order: Order) -> bytes:
    """Return an order as it is sent."""
    values = {name: getattr(order.request, name) for name in _FIELDS}
    values["rules"] = [(type(rule).__name__, rule) for rule in order.request.rules]
    body = msgspec.Raw(msgspec.msgpack.encode(values))
    return msgspec.msgpack.encode(_Envelope(order.id, order.digest, order.is_batch, body))


def decode_order(data: bytes) -> Order:
    """Return an order; msgspec.MsgspecError for what is none."""
    envelope = msgspec.msgpack.decode(data, type=_Envelope)
    values: Any = msgspec.msgpack.decode(envelope.request, type=_Fields)
    rules = []
    for name, options in values.rules:
        if name not in _RULES:
            raise msgspec.ValidationError(f"there is no stop rule {name!r}")
        rules.append(msgspec.convert(options, _RULES[name]))
    values.rules = tuple(rules)
    request = from_fields(Request, [getattr(values, name) for name in _FIELDS])
    return Order(envelope.id, envelope.digest, envelope.is_batch, request)


def encode_trace(trace: Trace) -> bytes:
    """Return a trace as it is sent; ValueError where a number of it is not finite."""
    return msgspec.msgpack.encode((stored.encode_trace(trace), trace.token_ids))


def decode_trace(data: bytes) -> Trace:
    """Return a trace; msgspec.MsgspecError for what is none."""
    body, token_ids = msgspec.msgpack.decode(data, type=tuple[bytes, tuple[int, ...]])
    return stored.decode_trace(body, token_ids)
