"""The worker process that runs plugin code which may hang, crash or use too much memory.

`runtime.workers.pool` starts and kills it. This module also defines its messages. They are
length-prefixed msgpack on the pipes that the process receives as standard input and output. Both
are hidden from the plugin, so that a `print` cannot corrupt a message. The one rule: the process
never outlives its parent and never exceeds its memory limit. The parent enforces time limits.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from typing import Any, BinaryIO, NoReturn, TypeAlias, TypeVar

import msgspec

from orchestrator.core.errors import NoVerdict
from orchestrator.core.values import PluginSpec, Problem, Trace, Verdict

OUT_OF_MEMORY = 77  # exit status: after a MemoryError the process cannot be trusted
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MAX_ERROR_CHARS = 500


class Load(msgspec.Struct, tag=True, frozen=True):
    """Build a plugin, unless it is already built; the calls that follow are for it.

    `options` is msgpack. `origin` is "module:Class", or "" if the name has an entry point.
    `revision` is the version of the plugin's own code (see `orchestrator.runtime.workers.pool`).
    """

    group: str
    name: str
    options: bytes
    origin: str = ""
    revision: str = ""


class Compare(msgspec.Struct, tag=True, frozen=True):
    """Call a domain's `equivalent`; returns a bool."""

    a: str
    b: str


class Read(msgspec.Struct, tag=True, frozen=True):
    """Call a domain's `extract`, then `canonical`; returns a Reading."""

    text: str
    finished: bool


class Apply(msgspec.Struct, tag=True, frozen=True):
    """Call an optional method of a domain with texts; returns a bool, a text or None."""

    method: str
    arguments: tuple[str, ...]


class Check(msgspec.Struct, tag=True, frozen=True):
    """Call an isolated verifier's `check`; returns a Verdict."""

    problem: Problem
    trace: Trace


class Reading(msgspec.Struct, frozen=True):
    """The answer that a domain read in a text; `canonical` is None exactly when `answer` is."""

    answer: str | None
    canonical: str | None


class Returned(msgspec.Struct, tag=True, frozen=True):
    """The return value of a call."""

    value: Any = None


class Raised(msgspec.Struct, tag=True, frozen=True):
    """The error that a call raised."""

    error: str


Call: TypeAlias = Load | Compare | Read | Apply | Check
Reply: TypeAlias = Returned | Raised
T = TypeVar("T")


def framed(message: Call | Reply) -> bytes:
    """Return the bytes of one message: its length in four big-endian bytes, then msgpack."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def main(parent_pid: int, memory_bytes: int) -> NoReturn:
    """Serve calls until standard input ends; then exit at once, even during a call."""
    incoming, outgoing = _message_pipes()
    _die_with(parent_pid)
    if sys.platform == "linux":  # not available elsewhere
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, calls), daemon=True).start()
    plugins: dict[Load, Any] = {}
    plugin: Any = None
    while True:
        call = calls.get()
        try:
            if isinstance(call, Load):
                plugin = plugins.get(call) or plugins.setdefault(call, _load(call))
                reply = framed(Returned())
            else:
                reply = framed(Returned(_value(plugin, call)))
        except BaseException as error:  # noqa: BLE001  # a plugin may raise anything, SystemExit included
            reply = framed(Raised(_description(error)))
        outgoing.write(reply)
        outgoing.flush()


def _load(call: Load) -> object:
    from orchestrator.plan import registry

    spec = PluginSpec(call.name, msgspec.msgpack.decode(call.options))
    plugin = (
        registry.load_origin(call.origin, spec.options)
        if call.origin
        else registry.load(call.group, spec)
    )
    if warm_up := getattr(plugin, "warm_up", None):
        warm_up()
    return plugin


def _value(plugin: Any, call: Compare | Read | Apply | Check) -> object:
    if isinstance(call, Compare):
        return bool(plugin.equivalent(call.a, call.b))
    if isinstance(call, Apply):
        return getattr(plugin, call.method)(*call.arguments)
    if isinstance(call, Check):
        return _of_type(Verdict, plugin.check(call.problem, call.trace))
    answer = plugin.extract(call.text, call.finished)
    if answer is None:
        return Reading(None, None)
    return Reading(_of_type(str, answer), _of_type(str, plugin.canonical(answer)))


def _of_type(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"it returned {value!r:.80}, not a {kind.__name__}")
    return value


def _description(error: BaseException) -> str:
    """Return the error in one line; out of memory ends the process."""
    if isinstance(error, MemoryError):
        os._exit(OUT_OF_MEMORY)
    if isinstance(error, NoVerdict):
        return str(error)[:_MAX_ERROR_CHARS]
    return f"raised {type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]


def _listen(incoming: BinaryIO, calls: queue.SimpleQueue[Call]) -> None:
    decoder = msgspec.msgpack.Decoder(Call)
    while True:
        head = incoming.read(4)
        body = incoming.read(int.from_bytes(head, "big"))
        if len(head) < 4 or not body:
            # The parent closed the pipe or has ended; the main thread may never finish its call.
            os._exit(0)
        calls.put(decoder.decode(body))


def _message_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the two pipes under new file descriptors.

    Afterwards standard input is empty, and standard output is redirected to standard error.
    """
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _die_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent dies; exit now if the parent is dead."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)
