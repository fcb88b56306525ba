"""Strategies made of strategies: several explorations side by side, or one inside another.

`gather` runs generators of the strategy algebra concurrently, like `asyncio.gather` for coroutines;
`run_inner` runs a whole strategy and returns what it explored:

    def explore(self, problem, rng):
        explored = yield from run_inner(self.inner, problem, rng)
        best = representatives(explored, self.select, 1)
        ...

The one rule: a branch or an inner strategy cannot tell that it is not alone. Its replies are those
that a Session would send, "any trace" means any of its own traces, and its requests that still run
when it returns are cancelled. Not covered: separate budgets; all share the plan's budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from orchestrator.core.lineage import lineage, whole
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.steps import (
    Cancel,
    Command,
    Drop,
    Next,
    Reply,
    Routine,
    Steps,
    Submit,
    next_trace,
    submit,
)
from orchestrator.core.values import Cluster, Finish, Problem, Prompt, Request, Trace, changed
from orchestrator.core.votes import VOTING, pruned
from orchestrator.kit.prompts import visible_text

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Branch(Generic[T]):
    routine: Routine[T]
    open: set[int] = field(default_factory=set)  # started and not delivered yet
    awaits: frozenset[int] | None = None  # None once it has returned


def gather(branches: Iterable[Generator[Command, Reply, T]]) -> Generator[Command, Reply, list[T]]:
    """Run branches side by side and return their return values, in order.

    A branch that waits for a request that a budget refused keeps waiting until all others have
    returned; then exploration ends, as it does for a single strategy. Branches advance in order at
    first and then one by one as traces arrive, so the result is deterministic if they are. Their
    first requests are submitted in one command, which allows any number of branches.
    """
    every = [_Branch(Routine(steps, "a branch")) for steps in branches]
    owner: dict[int, _Branch[T]] = {}
    # the union over all branches; kept up to date, because thousands of branches may wait
    awaited: set[int] = set()
    try:
        yield from _begin(every, owner)
        awaited.update(*(b.awaits for b in every if b.awaits is not None))
        while any(b.awaits is not None for b in every):
            # Nothing to wait for: a budget refused a request, or a branch has a bug. The Session
            # knows which and ends the exploration.
            trace = yield from next_trace(awaited)
            branch = owner[trace.ordinal]
            awaited -= branch.awaits or frozenset()
            branch.open.discard(trace.ordinal)
            yield from _obey(branch, branch.routine.send(trace), owner)
            awaited |= branch.awaits or frozenset()
    finally:
        for branch in every:
            branch.routine.close()
    return [b.routine.result for b in every]


def _begin(
    every: Iterable[_Branch[T]], owner: dict[int, _Branch[T]]
) -> Generator[Command, Reply, None]:
    """Advance every branch to its first wait, with all their first requests in one command."""
    first: list[tuple[_Branch[T], Submit]] = []
    for branch in every:
        command = branch.routine.send(None)
        if isinstance(command, Submit):
            first.append((branch, command))
        else:
            yield from _obey(branch, command, owner)
    if first:
        granted = yield from submit(r for _, command in first for r in command.requests)
        for branch, command in first:
            n = len(command.requests)
            _own(branch, granted[:n], owner)
            yield from _obey(branch, branch.routine.send(granted[:n]), owner)
            granted = granted[n:]


def _obey(
    branch: _Branch[T], command: Command | None, owner: dict[int, _Branch[T]]
) -> Generator[Command, Reply, None]:
    """Pass on a branch's commands until it waits for a trace or has returned."""
    branch.awaits = None
    while command is not None:
        if isinstance(command, Next):
            branch.awaits = frozenset(
                branch.open if command.among is None else command.among & branch.open
            )
            return
        reply = yield command
        if isinstance(command, Submit):
            _own(branch, cast("tuple[int, ...]", reply), owner)
        command = branch.routine.send(reply)
    if branch.open:
        yield Cancel(frozenset(branch.open), "its part of the strategy had ended")


def _own(branch: _Branch[T], ordinals: tuple[int, ...], owner: dict[int, _Branch[T]]) -> None:
    branch.open.update(ordinals)
    owner.update(dict.fromkeys(ordinals, branch))


@dataclass(frozen=True, slots=True)
class Overrides:
    """Defaults for the fields that an inner exploration's requests leave unset; none by default.

    `prompt` replaces the problem's prompt, also in prompts that the inner strategy builds from it.
    `subjects` are the traces that its attempts should improve on.
    """

    prompt: Prompt = ""
    model: str = ""
    depth: int | None = None
    subjects: tuple[int, ...] = ()

    def __call__(self, request: Request) -> Request:
        """Return the request with its unset fields filled.

        A continuation keeps its parent's model and depth.
        """
        fresh = request.parent is None
        is_attempt = request.purpose in VOTING
        return changed(
            request,
            prompt=request.prompt or self.prompt,
            model=request.model or (self.model if fresh else ""),
            depth=self.depth if request.depth is None and fresh else request.depth,
            subjects=request.subjects or (self.subjects if is_attempt else ()),
        )


@dataclass(frozen=True, slots=True)
class Exploration:
    """The outcome of an exploration: its traces by ordinal, and the dropped ones with heirs."""

    traces: tuple[Trace, ...] = ()
    dropped: Mapping[int, int | None] = field(default_factory=dict)

    @property
    def pool(self) -> list[Trace]:
        """The traces as a selector must see them: dropped traces do not vote for themselves."""
        return list(pruned(self.traces, self.dropped))

    @property
    def attempts(self) -> list[Trace]:
        """The attempts of the pool that ended: neither continued nor cancelled."""
        continued = {t.parent for t in self.traces}
        return [
            t
            for t in self.pool
            if t.purpose in VOTING
            and t.ordinal not in continued
            and t.finish is not Finish.CANCELLED
        ]


def run_inner(
    strategy: Strategy, problem: Problem, rng: random.Random, overrides: Overrides | None = None
) -> Generator[Command, Reply, Exploration]:
    """Run a strategy's whole exploration inside another strategy and return its outcome.

    The inner strategy has its own random stream, seeded from `rng`. `overrides` fills the fields
    that its requests leave unset.
    """
    overrides = overrides or Overrides()
    steps = strategy.explore(
        changed(problem, prompt=overrides.prompt or problem.prompt),
        random.Random(rng.getrandbits(64)),
    )
    routine = Routine(steps, f"explore of {type(strategy).__name__}")
    traces: dict[int, Trace] = {}
    dropped: dict[int, int | None] = {}
    yield from gather([_recorded(routine, overrides, traces, dropped)])
    return Exploration(tuple(traces[o] for o in sorted(traces)), dropped)


def _recorded(
    routine: Routine[None],
    rewrite: Callable[[Request], Request],
    traces: dict[int, Trace],
    dropped: dict[int, int | None],
) -> Steps:
    """Pass commands on with rewritten requests, and record delivered and dropped traces."""
    reply: Reply = None
    try:
        while (command := routine.send(reply)) is not None:
            if isinstance(command, Submit):
                # mostly one request n times
                rewritten = {id(request): rewrite(request) for request in command.requests}
                command = Submit(tuple(rewritten[id(request)] for request in command.requests))
            elif isinstance(command, Drop):
                dropped.update(dict.fromkeys(sorted(command.ordinals), command.heir))
            reply = yield command
            if isinstance(reply, Trace):
                traces[reply.ordinal] = reply
    finally:
        routine.close()


def representatives(explored: Exploration, select: Selector, n: int) -> list[Trace]:
    """Return one representative trace for each of the `n` leading answers, best answer first.

    Each has the text of its whole lineage, without forced suffixes. The representative of an answer
    is the trace that the selector gives the largest weight when it is alone in the pool (with a
    best-of-n selector, the best trace); ties go to the lowest ordinal.
    """
    pool = explored.pool
    by_ordinal = {t.ordinal: t for t in pool}
    chosen = [_representative(cluster, by_ordinal, select) for cluster in select(pool)[:n]]
    return [whole(lineage(t, by_ordinal)) for t in chosen]


def _representative(cluster: Cluster, by_ordinal: Mapping[int, Trace], select: Selector) -> Trace:
    def weight(ordinal: int) -> float:
        return sum(alone.weight for alone in select([by_ordinal[ordinal]]))

    return by_ordinal[max(cluster.ordinals, key=lambda ordinal: (weight(ordinal), -ordinal))]


def numbered_solutions(traces: list[Trace]) -> str:
    """Return solutions as text for a prompt: a single one unchanged, several numbered."""
    if len(traces) == 1:
        return visible_text(traces[0])
    return "\n\n".join(
        f"Solution {place}:\n{visible_text(trace)}" for place, trace in enumerate(traces, 1)
    )
