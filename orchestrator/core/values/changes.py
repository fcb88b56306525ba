"""Changed copies of values, fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, make_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


def changed(value: T, **changes: object) -> T:
    """Return what `dataclasses.replace` returns, in a sixth of its time.

    The speed matters because this runs several times for each trace.
    """
    cls = type(value)
    read, places, draft = layout(cls)  # type: ignore[arg-type]  # mypy does not count a class as hashable
    values = list(read(value))
    for name, new in changes.items():
        values[places[name]] = new
    made: Any = draft(*values)
    if draft is not cls:
        made.__class__ = cls
    return made  # type: ignore[no-any-return]  # `cast` would be a call for each


def from_fields(cls: type[T], values: Iterable[object]) -> T:
    """Return what `cls(*values)` returns, in a fourth of its time, given all fields."""
    draft = layout(cls)[2]  # type: ignore[arg-type]  # as above
    made: Any = draft(*values)
    if draft is not cls:
        made.__class__ = cls
    return made  # type: ignore[no-any-return]  # as above


@cache
def layout(
    cls: type,
) -> tuple[Callable[[object], tuple[object, ...]], dict[str, int], Callable[..., object]]:
    """Return what reads all fields of a value, their places, and what makes a draft of a value.

    A frozen class sets each field by a call. So a draft is of a class with the same slots that is
    not frozen, where the class allows that: it has no slots but its own, and no `__post_init__`.
    """
    names = [f.name for f in fields(cls)]
    is_plain = cls.__bases__ == (object,) and "__slots__" in vars(cls)
    is_plain = is_plain and not hasattr(cls, "__post_init__")
    draft = make_dataclass(f"{cls.__name__}Draft", names, slots=True) if is_plain else cls
    return attrgetter(*names), {name: place for place, name in enumerate(names)}, draft
