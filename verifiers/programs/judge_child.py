"""The judge: the process that runs a test, and asks another process for what the program returns.

Standard library only; `sandbox_child.py` loads this file by its path. The one rule: this process
never runs an instruction of the program. The names that a test does not define are the program's;
an object of the program is a `ProgramObject` here. The test's values reach the program as arguments
alone, never through an operator: what a result is compared with is compared here.

The verdict is the exit status: 0 only at the very end of the test.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import operator
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

PASSED, FAILED, GONE = 0, 1, 4  # exit statuses; GONE: the program's process ended, or lied
# Modules whose names a program may lend to its test: without them, `math` in a test would need an
# import that the program already has. None runs code that it is given, or reflects on objects.
_LENT = frozenset(
    (
        *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions"),
        *("functools", "heapq", "itertools", "json", "math", "operator", "random", "re"),
        *("statistics", "string", "typing"),
    )
)


class ProgramObject:
    """An object in the program's process."""

    __slots__ = ("__judge", "__number", "__weakref__")

    def __init__(self, judge: Judge, number: int) -> None:
        object.__setattr__(self, "_ProgramObject__judge", judge)
        object.__setattr__(self, "_ProgramObject__number", number)

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: object) -> None:
        _ask(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delattr", name)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return _ask(self, "call", *args, **kwargs)

    def __contains__(self, item: object) -> bool:
        if type(item) is ProgramObject:
            return bool(_ask(self, "contains", item))
        is_plain, plain = _ask(self, "plain")
        items = iter(plain) if is_plain else _ask(self, "iter")
        return any(item is one or item == one for one in items)

    def __instancecheck__(self, instance: object) -> bool:
        return type(instance) is ProgramObject and bool(_ask(instance, "isinstance", self))

    def __enter__(self) -> Any:
        return _ask(_ask(self, "getattr", "__enter__"), "call")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Leave the context; the program cannot suppress an exception of the test."""
        _ask(
            _ask(self, "getattr", "__exit__"),
            "call",
            kind,
            None if error is None else str(error),
            None,
        )


def _ask(value: Any, operation: str, *args: Any, **kwargs: Any) -> Any:
    judge: Judge = object.__getattribute__(value, "_ProgramObject__judge")
    return judge.ask(operation, value, *args, **kwargs)


def _number(value: ProgramObject) -> Any:
    return object.__getattribute__(value, "_ProgramObject__number")


def _forward(operation: str) -> Callable[..., Any]:
    return lambda self, *args: _ask(self, operation, *args)


def _operator(operation: Callable[..., Any], name: str, is_reflected: bool) -> Callable[..., Any]:
    """Return an operator: on two of the program's objects, theirs; with a value of the test, that
    of the plain type from which the object's type derives, if any.
    """

    def apply(self: ProgramObject, other: Any) -> Any:
        if type(other) is ProgramObject:
            return _ask(self, name, other)
        is_plain, plain = _ask(self, "plain")
        if not is_plain:
            return NotImplemented
        return operation(other, plain) if is_reflected else operation(plain, other)

    return apply


for _name in ("len", "bool", "iter", "next", "reversed", "str", "repr", "int", "float", "complex"):
    setattr(ProgramObject, f"__{_name}__", _forward(_name))
for _name in ("index", "hash", "neg", "pos", "invert", "abs", "round", "format", "copy"):
    setattr(ProgramObject, f"__{_name}__", _forward(_name))
for _name in ("getitem", "setitem", "delitem", "deepcopy"):
    setattr(ProgramObject, f"__{_name}__", _forward(_name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ProgramObject, f"__{_name}__", _operator(getattr(operator, _name), _name, False))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift",
              "matmul", "and_", "or_", "xor"):  # fmt: skip
    for _is_reflected in (False, True):
        _dunder = f"__{'r' * _is_reflected}{_name.rstrip('_')}__"
        setattr(ProgramObject, _dunder, _operator(getattr(operator, _name), _name, _is_reflected))


class Judge:
    """The side of the judge: the program may call functions of the test that it was given."""

    def __init__(self) -> None:
        self._objects: dict[int, ProgramObject] = {}
        self.operations: Mapping[str, Callable[..., Any]] = {"call": self._called}
        self.peer: Any = None
        self.failure: AssertionError | None = None  # in a function that the program called

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the program's process answers.

        StopIteration is what only `next` may raise: elsewhere it would end a loop of the test.
        """
        try:
            return self.peer.ask(operation, *args, **kwargs)
        except StopIteration as error:
            if operation == "next":
                raise
            raise RuntimeError("the program raised StopIteration") from error
        except BaseException as error:
            if type(error).__module__ == self.peer.__module__:  # Gone: no test may catch it
                _end(GONE, "ended before its test was through")
            raise

    def named(self, value: Any, peer: Any) -> list[Any]:
        """Return a reference to an object of the program, or to a function of the test."""
        if type(value) is ProgramObject:
            return ["own", _number(value)]
        for base in (int, float, str, bytes, list, tuple, dict, set, frozenset):
            if isinstance(value, base):
                raise TypeError(f"pass {base.__name__}(...) to the program, not a subclass of it")
        if callable(value):
            return ["function", peer.number(value)]
        if hasattr(value, "__next__"):
            return ["iterator", peer.number(value.__next__)]
        raise TypeError(f"a {type(value).__name__} of the test cannot be passed to the program")

    def remote(self, tag: str, number: Any, peer: Any) -> Any:
        """Return an object of the program, always the same; or a module that it imports."""
        if tag == "module" and str(number).partition(".")[0] in _LENT:
            return importlib.import_module(number)
        if tag != "of":
            raise TypeError(f"{number!r:.80} of the program is not passed to a test")
        return self._objects.setdefault(number, ProgramObject(self, number))

    def exception(self, kind: type[BaseException]) -> type[BaseException]:
        """Return a class of exceptions; TypeError if a test would catch its own failure with it."""
        if issubclass(AssertionError, kind):
            raise TypeError(f"{kind.__name__} under a name of the program is not passed to a test")
        return kind

    def printed(self) -> str:
        """Return nothing: the test's output is not the program's business."""
        return ""

    def _called(self, number: int, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.peer.own[number](*args, **kwargs)
        except AssertionError as error:  # the program may catch it, which does not undo it
            self.failure = self.failure or error
            raise


class Names(dict[str, Any]):
    """The names of a test: its own, then the built-in ones, then the program's.

    A program that defines `abs` must not judge by it. `lone` is a built-in name that comes last all
    the same, because it must be the name of what is tested (`lone_builtin`).
    """

    def __init__(self, judge: Judge, lone: str) -> None:
        super().__init__({"__name__": "__main__"})
        self._judge, self._lone = judge, lone

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or (hasattr(builtins, name) and name != self._lone):
            raise KeyError(name)
        is_there, value = self._judge.ask("global", name)
        if not is_there:
            raise KeyError(name)
        return value


def lone_builtin(tree: ast.AST) -> str:
    """Return the one built-in function that a test uses, if it uses no other name; else ""."""
    used: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else own).add(node.id)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
    names = used - own
    return names.pop() if len(names) == 1 and hasattr(builtins, min(names)) else ""


def run(peer_module: Any, test: str, channel: tuple[int, int]) -> NoReturn:
    """Run a test and end with its verdict as the exit status."""
    judge = Judge()
    judge.peer = peer_module.Peer(*channel, judge)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - a test may put another in its place
    try:
        tree = ast.parse(test)
        exec(compile(tree, "test.py", "exec"), Names(judge, lone_builtin(tree)))
        if judge.failure is not None:
            raise judge.failure
    except SystemExit:
        _end(FAILED, "ended before its test was through")
    except BaseException as error:  # noqa: BLE001 - of whatever kind, the test did not pass
        _end(FAILED, traceback.format_exception_only(error)[-1])
    _end(PASSED, "")


def _end(status: int, fault: str) -> NoReturn:
    try:
        os.write(2, fault.encode(errors="replace"))
    finally:
        os._exit(status)
