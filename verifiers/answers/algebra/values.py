"""A typed value of an answer, with the key that decides which answers are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verifiers.answers.algebra.numbers.arithmetic import digest
from verifiers.answers.algebra.numbers.evaluation import Scalar

_MAX_KEY_CHARS = 600


@dataclass(frozen=True, slots=True)
class Value:
    """`kind` names the type for people; `key` begins with `=`; `shown` is a readable form."""

    kind: str
    key: str
    shown: str


EMPTY = Value("set", r"=\emptyset", "{}")


def of_scalar(scalar: Scalar) -> Value:
    """Return the value of a number or an expression."""
    return Value(scalar.kind, scalar.key, scalar.shown)


def sequence(values: Sequence[Value], kind: str = "tuple") -> Value:
    """Return the tuple of values; the order counts."""
    keys = ",".join(value.key.removeprefix("=") for value in values)
    return Value(kind, short(f"=({keys})"), f"({', '.join(value.shown for value in values)})")


def finite_set(values: Sequence[Value]) -> Value:
    """Return the set of values; the order does not count, and a set of one is its element."""
    distinct = {value.key: value for value in values}
    if not distinct:
        return EMPTY
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    keys = ",".join(sorted(key.removeprefix("=") for key in distinct))
    return Value(
        "set", short(f"={{{keys}}}"), f"{{{', '.join(v.shown for v in distinct.values())}}}"
    )


def listed(values: Sequence[Value]) -> Value:
    """Return the list of values, whose order does not count.

    It is the set of them if all are different, or no numbers: pairs may be repeated.
    """
    is_scalar = all(value.kind in ("number", "expression") for value in values)
    if not is_scalar or len({value.key for value in values}) == len(values):
        return finite_set(values)
    keys = ",".join(sorted(value.key.removeprefix("=") for value in values))
    return Value("list", short(f"=list {keys}"), ", ".join(value.shown for value in values))


def matrix(rows: Sequence[Sequence[Value]]) -> Value:
    """Return the matrix of values; one column is a vector, the same as the tuple of its entries."""
    if all(len(row) == 1 for row in rows) and len(rows) > 1:
        return sequence([row[0] for row in rows], "vector")
    keys = ";".join(",".join(value.key.removeprefix("=") for value in row) for row in rows)
    shown = "; ".join(", ".join(value.shown for value in row) for row in rows)
    return Value("matrix", short(f"=[{keys}]"), f"[{shown}]")


def ratio(values: Sequence[Value]) -> Value:
    """Return the value of three or more proportional parts."""
    keys = ":".join(value.key.removeprefix("=") for value in values)
    return Value("ratio", short(f"={keys}"), " : ".join(value.shown for value in values))


def short(key: str) -> str:
    """Return the key, with a digest for its end if it is long."""
    if len(key) <= _MAX_KEY_CHARS:
        return key
    return f"{key[:60]}... #{digest([key])}"
