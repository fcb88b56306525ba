"""The process in which answers are compared, and its messages. Started and killed by
`orchestrator.runtime.answer_workers`.

Speaks length-prefixed msgpack on the pipes it was given as standard input and output; both are
taken away from the plugin, so that a `print` cannot break a frame. The one rule: it never outlives
its parent and never exceeds its memory. Time limits are the parent's.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import msgspec

if TYPE_CHECKING:
    from orchestrator.core.protocols import Domain

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MAX_ERROR_CHARS = 500
OUT_OF_MEMORY = 77  # exit status: after a MemoryError nothing here can be trusted to go on


class Task(msgspec.Struct, tag=True, frozen=True):
    """A question names a domain.

    `options` is msgpack; `origin` is "module:Class" or "" (look the name up).
    """

    domain: str
    options: bytes
    origin: str


class MatchTask(Task, frozen=True):
    """Compare `answer` with each representative, in order, until one is equivalent."""

    answer: str
    representatives: tuple[str, ...]


class ExamineTask(Task, frozen=True):
    """Extract and normalise."""

    text: str
    finished: bool


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The domain is loaded; from here on the time limit counts."""


class Unloadable(msgspec.Struct, tag=True, frozen=True):
    """The domain cannot be built."""

    error: str


class Compared(msgspec.Struct, tag=True, frozen=True):
    """One representative is decided, or `error` says why it is not."""

    equal: bool
    error: str = ""


class Read(msgspec.Struct, tag=True, frozen=True):
    """What was extracted. `canonical` is None exactly when `answer` is."""

    answer: str | None
    canonical: str | None
    error: str = ""


Question = MatchTask | ExamineTask
Reply = Ready | Unloadable | Compared | Read


def framed(message: Question | Reply) -> bytes:
    """The bytes of one message: four bytes of length, big-endian, then msgpack."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def main(parent_pid: int, memory_bytes: int) -> NoReturn:
    """Answer questions until standard input ends; then end at once, whatever is running."""
    incoming, outgoing = _taken_pipes()
    _die_with(parent_pid)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, questions), daemon=True).start()
    domains: dict[tuple[str, bytes, str], Domain] = {}
    while True:
        _answer(questions.get(), domains, outgoing)


def _answer(
    question: Question, domains: dict[tuple[str, bytes, str], Domain], outgoing: BinaryIO
) -> None:
    name = (question.domain, question.options, question.origin)
    try:
        domain = domains.get(name) or domains.setdefault(name, _load(*name))
    except BaseException as error:  # noqa: BLE001  # a stranger's module may raise anything, SystemExit included
        _send(outgoing, Unloadable(_said(error)))
        return
    _send(outgoing, Ready())
    if isinstance(question, ExamineTask):
        _send(outgoing, _read(domain, question))
        return
    for representative in question.representatives:
        compared = _compared(domain, question.answer, representative)
        _send(outgoing, compared)
        if compared.equal:
            return


def _load(name: str, options: bytes, origin: str) -> Domain:
    from orchestrator.core.values import PluginSpec
    from orchestrator.plan import registry

    spec = PluginSpec(name, msgspec.msgpack.decode(options))
    domain: Domain = (
        registry.load_origin(origin, spec.options) if origin else registry.load("domains", spec)
    )
    warm_up = getattr(domain, "warm_up", None)
    if warm_up is not None:
        warm_up()
    return domain


def _compared(domain: Domain, answer: str, representative: str) -> Compared:
    try:
        return Compared(bool(domain.equivalent(answer, representative)))
    except BaseException as error:  # noqa: BLE001  # a plugin may raise anything; it is reported, not hidden
        return Compared(False, _said(error))


def _read(domain: Domain, task: ExamineTask) -> Read:
    try:
        answer = domain.extract(task.text, task.finished)
        if answer is None:
            return Read(None, None)
        return Read(_text(answer), _text(domain.canonical(_text(answer))))
    except BaseException as error:  # noqa: BLE001  # as above
        return Read(None, None, _said(error))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is due, not {type(value).__name__}")
    return value


def _said(error: BaseException) -> str:
    """The error in one line. Out of memory ends the process."""
    if isinstance(error, MemoryError):
        os._exit(OUT_OF_MEMORY)
    return f"raised {type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]


def _send(outgoing: BinaryIO, reply: Reply) -> None:
    outgoing.write(framed(reply))
    outgoing.flush()


def _listen(incoming: BinaryIO, questions: queue.SimpleQueue[Question]) -> None:
    decoder = msgspec.msgpack.Decoder(Question)
    while True:
        head = incoming.read(4)
        body = incoming.read(int.from_bytes(head, "big"))
        if len(head) < 4 or not body:
            # the parent has closed the pipe or is gone; the main thread may be in a computation
            # without end
            os._exit(0)
        questions.put(decoder.decode(body))


def _taken_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes under new numbers; standard input is then empty and standard output goes where
    errors go.
    """
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; end at once if that has already
    happened.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)
