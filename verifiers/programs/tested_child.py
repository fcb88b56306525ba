"""The process of a program under test: it runs the program, then does what the judge asks of it.

Standard library only; `sandbox_child.py` loads this file by its path. The one rule: nothing of the
test is here but what the judge passes to the program as arguments. Whatever the program does to
this process, it can only change what it answers.
"""

from __future__ import annotations

import contextlib
import copy
import io
import operator
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# What a type derives from, and how to get at that part without the methods of the type.
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, lambda text: str.__getitem__(text, slice(None))),
    (bytes, lambda data: bytes.__getitem__(data, slice(None))),
    (list, lambda items: list.__getitem__(items, slice(None))),
    (tuple, lambda items: tuple.__getitem__(items, slice(None))),
    (dict, dict.copy),
    (set, lambda items: set().union(items)),
    (frozenset, lambda items: frozenset().union(items)),
)


class Program:
    """The side of the program: all of its objects have names, and everything can be asked."""

    def __init__(
        self, module: types.ModuleType, output: io.TextIOWrapper, written: io.BytesIO
    ) -> None:
        self._module, self._output, self._written = module, output, written
        self._callbacks: dict[int, tuple[Any, int]] = {}
        self.operations: Mapping[str, Callable[..., Any]] = {
            **{name: getattr(operator, name) for name in _OPERATORS},
            **{f.__name__: f for f in _FUNCTIONS},
            "call": lambda function, *args, **kwargs: function(*args, **kwargs),
            "global": self._global,
            "plain": _plain,
        }

    def named(self, value: Any, peer: Any) -> list[Any]:
        """Return a reference to any object."""
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        callback = self._callbacks.get(id(value))
        return ["own", callback[1]] if callback else ["of", peer.number(value)]

    def remote(self, tag: str, number: Any, peer: Any) -> Any:
        """Return a function that has the judge call one of the test's; "iterator": an iterator."""

        def callback(*args: Any, **kwargs: Any) -> Any:
            return peer.ask("call", number, *args, **kwargs)

        def items() -> Iterator[Any]:
            while True:
                try:
                    item = callback()
                except StopIteration:
                    return
                yield item

        value = items() if tag == "iterator" else callback
        self._callbacks[id(value)] = value, number
        return value

    def exception(self, kind: type[BaseException]) -> type[BaseException]:
        """Return any class of exceptions."""
        return kind

    def printed(self) -> str:
        """Return what the program printed through `sys.stdout`."""
        self._output.flush()
        text = self._written.getvalue().decode(errors="replace")
        self._written.seek(0)
        self._written.truncate()
        return text

    def _global(self, name: str) -> tuple[bool, Any]:
        names = self._module.__dict__
        return name in names, names.get(name)


_OPERATORS = (
    *("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
    *("and_", "or_", "xor", "lshift", "rshift", "matmul", "neg", "pos", "invert", "index"),
    *("getitem", "setitem", "delitem", "contains"),
)
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(len, bool, iter, next, reversed, str, repr, int, float, complex, hash, abs, round, format),
    *(divmod, isinstance, getattr, setattr, delattr, copy.copy, copy.deepcopy),
)


def _plain(value: Any) -> tuple[bool, Any]:
    """Return whether an object is of a type derived from a plain one, and its plain part."""
    for kind, part in _PLAIN:
        if isinstance(value, kind):
            return True, part(value)
    return False, None


def run(peer_module: Any, program: str, channel: tuple[int, int]) -> None:
    """Run the program, then serve the judge until that ends."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    written = io.BytesIO()
    output = sys.stdout = io.TextIOWrapper(written, encoding="utf-8", errors="replace")
    exec(compile(program, "program.py", "exec"), module.__dict__)
    with contextlib.suppress(peer_module.Gone):
        peer_module.Peer(*channel, Program(module, output, written)).serve()
