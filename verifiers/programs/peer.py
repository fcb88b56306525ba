"""The language between a program under test and the judge of its test: values, and calls.

The two are processes that share two pipes and nothing else. Standard library only, and no import
of ours, because both load this file by its path. The one rule: what arrives is data. It is JSON,
never unpickled or evaluated; plain values are rebuilt, and any other object stays where it is, with
a number as its name on the other side. A container that both sides hold is changed on both.

What may be named, and what may be done with it, differs between the sides: `judge_child.py` has the
judge's, `tested_child.py` the program's.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

_LENGTH_BYTES = 8
_MOST_BYTES = 64 << 20  # of a message
_SMALL = 1 << 63  # an int below it is written as JSON has it; longer ones in hexadecimal
_LISTS: Mapping[str, type] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_DICTS: Mapping[str, type] = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "Counter": collections.Counter,
    "defaultdict": collections.defaultdict,
}
_CONTAINERS = {kind: name for name, kind in (*_LISTS.items(), *_DICTS.items())}
_FROZEN = (tuple, frozenset)
_PLAIN_TYPES: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset),
    *(range, object, type(None)),
)
_TYPES = {kind.__name__: kind for kind in _PLAIN_TYPES}
# A type with the arguments that make an equal value.
_VALUES: Mapping[str, Callable[[Any], Iterable[Any]]] = {
    "builtins.complex": lambda v: (v.real, v.imag),
    "builtins.bytes": lambda v: (v.hex(),),
    "builtins.bytearray": lambda v: (v.hex(),),
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
    "datetime.date": lambda v: (v.isoformat(),),
    "datetime.time": lambda v: (v.isoformat(),),
    "datetime.datetime": lambda v: (v.isoformat(),),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
}


class Gone(BaseException):
    """The other side has ended, or does not speak this language."""


class Side(Protocol):
    """What one side may name, and what the other may have it do."""

    operations: Mapping[str, Callable[..., Any]]

    def named(self, value: Any, peer: Peer) -> list[Any]:
        """Return a reference to an object that is no plain value; TypeError if it has none."""

    def remote(self, tag: str, number: Any, peer: Peer) -> Any:
        """Return what stands here for an object of the other side."""

    def exception(self, kind: type[BaseException]) -> type[BaseException]:
        """Return a class of exceptions that arrived; TypeError where it is not wanted."""

    def printed(self) -> str:
        """Return what was printed since the last call."""


class Peer:
    """One end of the connection."""

    def __init__(self, reading: int, writing: int, side: Side) -> None:
        self._reading, self._writing, self._side = reading, writing, side
        self.own: list[Any] = []  # objects of this side, by number
        self._numbers: dict[int, int] = {}
        self._classes: dict[int, type[BaseException]] = {}  # that stand for the other side's

    def number(self, value: Any) -> int:
        """Return the number of an object of this side, which is kept."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.own)
            self.own.append(value)
        return self._numbers[id(value)]

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Return what an operation of the other side returns; its exception is raised here."""
        graph = _Graph(self, [])
        message: dict[str, Any] = {"do": operation, "args": [graph.encode(arg) for arg in args]}
        message["kwargs"] = {name: graph.encode(value) for name, value in kwargs.items()}
        message["nodes"] = graph.nodes()
        self._send(message)
        while "do" in (reply := self._receive()):
            self._answer(reply)
        sys.stdout.write(str(reply["printed"]))
        return self._result(reply, graph)

    def serve(self) -> None:
        """Answer requests until the other side ends."""
        while True:
            self._answer(self._receive())

    def _result(self, reply: Mapping[str, Any], sent: _Graph) -> Any:
        content = _Content(self, sent.objects, reply["nodes"])
        for index, node in reply["changed"].items():
            content.change(int(index), node)
        if "error" in reply:
            raise self._exception(reply["error"], content)
        return content.decode(reply["value"])

    def _answer(self, message: Mapping[str, Any]) -> None:
        content = _Content(self, [], message["nodes"])
        reply: dict[str, Any] = {}
        graph = _Graph(self, content.objects)
        try:
            args = [content.decode(arg) for arg in message["args"]]
            kwargs = {str(name): content.decode(arg) for name, arg in message["kwargs"].items()}
            reply["value"] = graph.encode(self._side.operations[message["do"]](*args, **kwargs))
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - of the program or the test: it is the answer
            reply["error"] = self._error(error, graph)
        again = {str(i): graph.node(one) for i, one in content.mutable()}
        reply["changed"] = {
            i: node for i, node in again.items() if node != message["nodes"][int(i)]
        }
        self._send({**reply, "nodes": graph.nodes(), "printed": self._side.printed()})

    def _error(self, error: BaseException, graph: _Graph) -> dict[str, Any]:
        """Return an exception as data."""
        base, classes = self._ancestry(type(error))
        try:
            args = [graph.encode(arg) for arg in error.args]
        except TypeError:
            args = [str(error)]
        return {"base": base, "classes": classes, "args": args}

    def _ancestry(self, kind: type) -> tuple[str, list[Any]]:
        """Return the built-in exception that a class descends from, and the classes above that."""
        classes: list[Any] = []
        for one in kind.__mro__:
            if one.__module__ == "builtins" and getattr(builtins, one.__name__, None) is one:
                return one.__name__, classes
            classes.append([one.__name__, self._name_of_class(one)])
        return "Exception", classes

    def _name_of_class(self, kind: type) -> list[Any]:
        """Return who has a class of exceptions, this side or the other one, and its number."""
        for number, stand_in in self._classes.items():
            if stand_in is kind:
                return ["own", number]
        return ["of", self.number(kind)]

    def _exception(self, error: Mapping[str, Any], content: _Content) -> BaseException:
        kind = self.exception_class(error["base"], error["classes"])
        args = [content.decode(arg) for arg in error["args"]]
        try:
            return kind(*args)
        except Exception:  # noqa: BLE001 - a class that takes other arguments than it keeps
            return RuntimeError(f"{kind.__name__}: {args}")

    def exception_class(self, base: str, classes: Iterable[Any]) -> type[BaseException]:
        """Return a class of exceptions, or the class of this side that stands for it."""
        kind = getattr(builtins, str(base), None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = Exception
        for name, (owner, number) in reversed(list(classes)):
            if owner == "own":
                own = self.own[number]
                kind = own if isinstance(own, type) and issubclass(own, BaseException) else kind
                continue
            if number not in self._classes:
                self._classes[number] = type(str(name), (kind,), {"__module__": "__main__"})
            kind = self._classes[number]
        return kind

    def reference(self, value: Any) -> list[Any]:
        """Return the reference to an object that is no plain value."""
        if isinstance(value, type) and _TYPES.get(value.__name__) is value:
            return ["type", value.__name__]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["class", *self._ancestry(value)]
        return self._side.named(value, self)

    def object(self, tag: str, *rest: Any) -> Any:
        """Return the object of a reference."""
        if tag == "type":
            return _TYPES[rest[0]]
        if tag == "class":
            return self._side.exception(self.exception_class(*rest))
        if tag == "own":
            return self.own[rest[0]]
        return self._side.remote(tag, rest[0], self)

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        data = len(data).to_bytes(_LENGTH_BYTES, "big") + data
        try:
            while data:
                data = data[os.write(self._writing, data) :]
        except OSError as error:
            raise Gone from error

    def _receive(self) -> dict[str, Any]:
        n_bytes = int.from_bytes(self._read(_LENGTH_BYTES), "big")
        if n_bytes > _MOST_BYTES:
            raise Gone
        message = json.loads(self._read(n_bytes))
        if not isinstance(message, dict):
            raise Gone
        return message

    def _read(self, n_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < n_bytes:
            chunk = os.read(self._reading, min(1 << 20, n_bytes - len(data)))
            if not chunk:
                raise Gone
            data += chunk
        return bytes(data)


class _Graph:
    """The values of one message on their way out; each container is written once.

    `objects` has the containers by index; those that are there at the beginning are known to the
    other side under these indices.
    """

    def __init__(self, peer: Peer, objects: list[Any]) -> None:
        self._peer = peer
        self.objects = list(objects)
        self._n_known = len(objects)
        self._indices = {id(one): index for index, one in enumerate(objects)}

    def encode(self, value: Any) -> Any:
        """Return a value as JSON has it, or as a list that begins with what it is."""
        kind = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else ["int", hex(value)]
        if kind in _CONTAINERS:
            if id(value) not in self._indices:
                self._indices[id(value)] = len(self.objects)
                self.objects.append(value)
            return ["node", self._indices[id(value)]]
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _VALUES:
            return ["value", name, [self.encode(arg) for arg in _VALUES[name](value)]]
        return self._peer.reference(value)

    def node(self, value: Any) -> list[Any]:
        """Return a container's kind and its content."""
        name = _CONTAINERS[type(value)]
        flat = (x for item in value.items() for x in item) if name in _DICTS else value
        return [name, [self.encode(one) for one in flat]]

    def nodes(self) -> list[list[Any]]:
        """Return the new containers, those that they contain included."""
        nodes: list[list[Any]] = []
        while self._n_known + len(nodes) < len(self.objects):
            nodes.append(self.node(self.objects[self._n_known + len(nodes)]))
        return nodes


class _Content:
    """The values of one message on their way in."""

    def __init__(self, peer: Peer, known: list[Any], nodes: list[list[Any]]) -> None:
        self._peer = peer
        self._nodes = nodes
        self._n_known = len(known)
        kinds = [(_LISTS.get(name) or _DICTS[name]) for name, _ in nodes]
        self.objects = [*known, *(None if kind in _FROZEN else kind() for kind in kinds)]
        for index in range(len(nodes)):
            self._container(self._n_known + index)
        for index, node in enumerate(nodes, self._n_known):
            if type(self.objects[index]) not in _FROZEN:
                self._fill(self.objects[index], node)

    def mutable(self) -> list[tuple[int, Any]]:
        """Return the containers that can change, with their indices."""
        return [(i, one) for i, one in enumerate(self.objects) if type(one) not in _FROZEN]

    def change(self, index: int, node: list[Any]) -> None:
        """Give a known container, which can change, its new content."""
        if not 0 <= index < self._n_known or type(self.objects[index]) in _FROZEN:
            raise Gone
        self._fill(self.objects[index], node)

    def decode(self, value: Any) -> Any:
        """Return a value."""
        if not isinstance(value, list):
            return value
        tag, *rest = value
        if tag == "int":
            return int(rest[0], 16)
        if tag == "node":
            return self._container(rest[0])
        if tag == "value":
            return _made(rest[0], [self.decode(arg) for arg in rest[1]])
        return self._peer.object(tag, *rest)

    def _container(self, index: int) -> Any:
        if self.objects[index] is None:
            name, content = self._nodes[index - self._n_known]
            self.objects[index] = _LISTS[name]([self.decode(one) for one in content])
        return self.objects[index]

    def _fill(self, container: Any, node: list[Any]) -> None:
        values = [self.decode(one) for one in node[1]]
        container.clear()
        if isinstance(container, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                dict.__setitem__(container, key, value)
        elif isinstance(container, set):
            container.update(values)
        else:
            container.extend(values)


def _made(name: str, args: list[Any]) -> Any:
    """Return the value of a type in `_VALUES`."""
    if name not in _VALUES:
        raise TypeError(f"there is no type {name!r:.80}")
    module, _, kind = name.rpartition(".")
    make = getattr(importlib.import_module(module), kind)
    if "." in name and kind in ("bytes", "bytearray"):
        return make.fromhex(*args)
    return make.fromisoformat(*args) if kind in ("date", "time", "datetime") else make(*args)
