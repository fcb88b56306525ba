"""The rules for every kind of plugin, and shared helpers of the checks.

A plugin is a frozen dataclass of plain options that can be pickled, and it uses no global state. A
broken rule raises AssertionError: "RULE: observation; remedy".
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import pickle
import random
import sys
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ParamSpec, Self

import msgspec

from orchestrator.core.metrics import PREFIX, parse_metric
from orchestrator.core.plan import Model
from orchestrator.core.values import Answer, Capability, Request, Trace
from orchestrator.runtime.api import blocking

P = ParamSpec("P")


def require(held: bool, rule: str, remedy: str) -> None:
    """Raise AssertionError if a rule is broken."""
    if not held:
        raise AssertionError(f"{rule}: {remedy}")


class _Completed:
    """The result of a check that has already run; awaiting it does nothing."""

    def __await__(self) -> Generator[None, None, None]:
        """Complete immediately."""
        yield from ()


def run_when_called(
    check: Callable[P, Coroutine[Any, Any, None]],
) -> Callable[P, Awaitable[None]]:
    """Return a check that runs when it is called, within an event loop too; it may be awaited."""

    @functools.wraps(check)
    def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[None]:
        blocking(lambda: check(*args, **kwargs))
        return _Completed()

    return call


def with_or_without_loop(
    check: Callable[P, Coroutine[Any, Any, None]],
) -> Callable[P, Awaitable[None]]:
    """Return a check that runs immediately without an event loop and must be awaited within one.

    It is for what belongs to the loop that runs, such as an open engine. Otherwise, a test that is
    not a coroutine would call a check that never runs, and would pass.
    """

    @functools.wraps(check)
    def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[None]:
        run = check(*args, **kwargs)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(run)
            return _Completed()
        return run

    return call


def check_value(plugin: object) -> None:
    """Check that a plugin is a frozen dataclass that can be pickled and made from its options."""
    cls = type(plugin)
    params = getattr(cls, "__dataclass_params__", None)
    require(
        params is not None and params.frozen and dataclasses.is_dataclass(plugin),
        "frozen dataclass",
        f"{cls.__qualname__} is not one; write @dataclass(frozen=True, slots=True), "
        "with its options as fields",
    )
    options = {f.name: getattr(plugin, f.name) for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]  # checked above
    parts = {name: options.pop(name) for name in getattr(cls, "parts", {})}
    for part in [
        one
        for held in parts.values()
        for one in (held if isinstance(held, tuple) else (held,))
        if one is not None
    ]:
        require(
            not isinstance(part, str),
            "parts",
            f"{part!r} is only a name; load the plugin with `registry.load`, or pass the plugin",
        )
        check_value(part)
    try:
        rebuilt: Any = msgspec.convert(msgspec.json.decode(msgspec.json.encode(options)), cls)
        rebuilt = dataclasses.replace(rebuilt, **parts) if parts else rebuilt
    except Exception as error:
        raise AssertionError(
            f"options round trip: {error}; every field must be representable in JSON and TOML"
        ) from error
    require(
        rebuilt == plugin,
        "options round trip",
        f"{plugin!r} comes back as {rebuilt!r}; keep the given values in the fields, unchanged",
    )
    try:
        copied = pickle.loads(pickle.dumps(plugin))
    except Exception as error:
        raise AssertionError(
            f"picklable: {error}; define the class at module level, without handles and lambdas"
        ) from error
    require(
        copied == plugin,
        "picklable",
        f"{plugin!r} comes back as {copied!r}; compare by value (dataclass eq)",
    )


def check_needs(
    needs: Collection[Capability], requests: Sequence[Request], tasks: Collection[str] = ()
) -> None:
    """Check that a plugin lists in `needs` all capabilities that its requests use.

    `tasks` are the pools with a task.
    """
    uses = {
        Capability.CONTINUE: any(r.parent is not None for r in requests),
        Capability.RULES: any(r.rules for r in requests),
        Capability.LOGPROBS: any(r.metrics for r in requests),
        Capability.SCORE: any(PREFIX in r.metrics for r in requests),
        Capability.DEPTH: any(r.depth is not None for r in requests),
        Capability.POOL: any(r.model in tasks for r in requests),
    }
    missing = sorted(c for c, used in uses.items() if used and c not in needs)
    require(
        not missing,
        "needs",
        f"its requests use {', '.join(missing)}; list that in `needs`, "
        "then an engine without it is refused",
    )


def metric_value(name: str, share: float) -> float:
    """Return a possible value of a metric, farther from 0 for a larger `share` in [0, 1]."""
    return -share if parse_metric(name)[0].endswith("_logprob") else 20 * share


def model_pools(plugin: object) -> dict[str, Model]:
    """Return pools of a plan that define all models named by a plugin's requests."""
    names = ("main", getattr(plugin, "model", ""), *getattr(plugin, "pools", ()))
    return {name: Model("any") for name in names if name}


@contextmanager
def no_global_randomness() -> Iterator[None]:
    """Check that the block draws nothing from the global generators of `random` and NumPy.

    Their states are restored.
    """
    numpy = sys.modules.get("numpy")
    before = random.getstate(), numpy and numpy.random.get_state()
    random.seed(20_250_101)
    if numpy:
        numpy.random.seed(20_250_101)
    expected = random.getstate(), numpy and repr(numpy.random.get_state())
    try:
        yield
        after = random.getstate(), numpy and repr(numpy.random.get_state())
        remedy = "a global generator was drawn from or seeded; draw from the `rng` you are given"
        require(after == expected, "no global random", remedy)
    finally:
        random.setstate(before[0])
        if numpy:
            numpy.random.set_state(before[1])


class SaltedText(str):
    """Text with a salted hash: another salt changes the order in a set of such texts.

    It replaces PYTHONHASHSEED, which is fixed when a process starts. All texts in one dict must
    have the same salt.
    """

    __slots__ = ("salt",)
    salt: int

    def __new__(cls, text: str, salt: int) -> Self:
        """Return the salted text."""
        salted = super().__new__(cls, text)
        salted.salt = salt
        return salted

    def __hash__(self) -> int:
        """Return a hash that depends on the salt."""
        return hash((self.salt, str(self)))

    def __eq__(self, other: object) -> bool:
        """Compare as text."""
        return isinstance(other, str) and str.__eq__(self, other)


def salted(trace: Trace, salt: int) -> Trace:
    """Return a trace with a different answer hash, and so another place in a set of answers."""
    if trace.answer is None:
        return trace
    answer = Answer(SaltedText(trace.answer.text, salt), SaltedText(trace.answer.key, salt))
    return replace(trace, answer=answer)
