"""The process in which the user's own function judges traces. Started and killed by `function.py`.

Asked by pickled (Problem, Trace) with a length before it, answers in JSON likewise; both pipes are
taken away from the function, so that a `print` cannot break a frame. The one rule: it never
outlives its parent and never exceeds its memory. Time limits are the parent's.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MAX_ERROR_CHARS = 500
OUT_OF_MEMORY = 77  # exit status: after a MemoryError nothing here can be trusted to go on


def main(parent: int, memory_bytes: int, function: str) -> None:
    """Load the function, say so, and answer until the parent closes the pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    incoming, outgoing = _taken_pipes()
    try:
        judge = _loaded(function)
    except BaseException as error:  # noqa: BLE001  # the user's module may raise anything, SystemExit included
        _send(outgoing, {"error": _said(error)})
        return
    _send(outgoing, {"ready": True})
    while (head := incoming.read(4)) and (body := incoming.read(int.from_bytes(head, "big"))):
        _send(outgoing, _judged(judge, body))


def _loaded(function: str) -> Callable[..., object]:
    """Return the function that "file.py:name" or "package.module:name" names."""
    where, _, name = function.rpartition(":")
    if where.endswith(".py"):
        sys.path.insert(0, str(Path(where).resolve().parent))
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert spec is not None  # it ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    found: Any = getattr(module, name)
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise TypeError(f"{name!r} is no plain function")
    inspect.signature(found).bind(None, None)
    return found  # type: ignore[no-any-return]  # checked to be callable


def _judged(judge: Callable[..., object], body: bytes) -> dict[str, object]:
    try:
        given: Any = judge(*pickle.loads(body))
        score = float(given)
        if isinstance(given, str) or not 0.0 <= score <= 1.0:
            raise ValueError(
                f"it returned {given!r:.80}; a number from 0 to 1, True or False is due"
            )
    except BaseException as error:  # noqa: BLE001  # as above; reported, and a MemoryError ends the process
        return {"error": _said(error)}
    return {"score": score}


def _said(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        os._exit(OUT_OF_MEMORY)
    return f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]


def _send(outgoing: BinaryIO, reply: dict[str, object]) -> None:
    text = json.dumps(reply).encode()
    outgoing.write(len(text).to_bytes(4, "big") + text)
    outgoing.flush()


def _taken_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes under new numbers; standard input is then empty, and standard output goes where
    errors go.
    """
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing
