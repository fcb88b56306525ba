"""The user's own Python function as a verifier.

The one rule: a function that hangs, crashes or exhausts memory loses its process and leaves a note
on the trace, never a score. It is the user's code and runs with the user's rights; untrusted code
belongs in the sandbox (`code_tests.py`).

The processes are the runtime's (`core.protocols.IsolatedVerifier`). They are kept between traces,
so the function's module is imported once in each. A file is looked up in the folder from which the
job is started; when it changes, new processes read it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from orchestrator.core.values import Problem, Trace, Verdict

_NAME = "function"


@dataclass(frozen=True, slots=True)
class Function:
    """Scores a trace with your own Python function, in a separate process.

    The function is called as `score(problem, trace)` and returns a float in [0, 1] or a bool.
    `trace.answer` is the answer (`.text`) or None, `trace.reply` the reply, `trace.thinking` what
    the model thought before it, `trace.text` all of its text, and `problem.tags` the other fields
    of the problem's row as JSON text. If the function raises, hangs or returns
    anything else, there is no score, and the trace's note has the reason.
    """

    function: Annotated[
        str,
        Meta(
            description="Your function: 'checks.py:score', a file relative to the folder in which "
            "the job is started, or 'package.module:score'."
        ),
    ]
    seconds: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400,
            description="Time limit of one call in seconds; then its process is killed.",
        ),
    ] = 10.0
    memory_mib: Annotated[
        int,
        Meta(ge=256, description="Limit on a process's address space in MiB, imports included."),
    ] = 4096

    def __post_init__(self) -> None:
        where, name = self._place
        if not where or not name.isidentifier():
            raise ValueError(
                f"function = {self.function!r}: write 'checks.py:NAME' or 'package.module:NAME'"
            )
        if where.endswith(".py") and not Path(where).is_file():
            raise ValueError(
                f"function = {self.function!r}: there is no file {Path(where).resolve()}"
            )

    @property
    def revision(self) -> str:
        """The modification time of the file; "" for an installed module."""
        path = Path(self._place[0])
        return str(path.stat().st_mtime_ns) if path.suffix == ".py" and path.exists() else ""

    def warm_up(self) -> None:
        """Import the function; TypeError if it is not a function; errors of its module pass."""
        _loaded(self._place)

    def check(self, problem: Problem, trace: Trace) -> Verdict:
        """Return the function's score; ValueError for anything else; its own errors propagate."""
        value = _loaded(self._place)(problem, trace)
        score = float(value)
        if isinstance(value, str) or not 0.0 <= score <= 1.0:
            raise ValueError(
                f"it returned {value!r:.80}; a number from 0 to 1, True or False is needed"
            )
        return Verdict(_NAME, score)

    @property
    def _place(self) -> tuple[str, str]:
        where, _, name = self.function.rpartition(":")
        return where, name


@functools.cache
def _loaded(place: tuple[str, str]) -> Callable[..., Any]:
    """Return the function that a file or a module defines under a name."""
    where, name = place
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
    function = getattr(module, name)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise TypeError(f"{name!r} is not a plain function")
    inspect.signature(function).bind(None, None)
    return function  # type: ignore[no-any-return]  # checked to be callable
