"""Several explorations at once within one: each branch is a generator of the strategy algebra, and
their traces run side by side.

The one rule: a branch cannot tell that it is not alone. It is asked and answered as by a Session,
"any trace" means any of its own, what it leaves running when it returns is cancelled, and what it
returns is returned. This is what lets one strategy be composed of smaller ones without a loop of
its own.

One exploration run inside another: what lets a strategy be made of strategies,
`refine(best_of_n(...))`, without a loop of its own.

The one rule: the inner strategy cannot tell that it is not alone (`core.together` sees to that),
and the outer one sees what it made: the traces that were delivered to it, and which of them it
dropped. On the way out its requests may be rewritten: those that leave their prompt, model, depth
or subjects open get the outer's. What an inner exploration leaves running when it returns is
cancelled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from orchestrator.core.errors import StrategyError
from orchestrator.core.lineage import lineage, whole_text
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.steps import Cancel, Command, Drop, Next, Reply, Steps, Submit
from orchestrator.core.values import Cluster, Finish, Problem, Prompt, Request, Trace, changed
from orchestrator.core.votes import VOTING, pruned
from orchestrator.kit.prompts import shown

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Branch(Generic[T]):
    steps: Generator[Command, Reply, T]
    open: set[int] = field(default_factory=set)  # started and not yet delivered
    awaits: frozenset[int] | None = None  # None once it has returned
    result: T | None = None


def gather(branches: Iterable[Generator[Command, Reply, T]]) -> Generator[Command, Reply, list[T]]:
    """Run branches side by side and return what each returned, in order.

    A branch that waits for what a budget refused is left waiting until all others are through; then
    exploration ends, as it does for a strategy that is alone. Branches are advanced in their order
    at first and then one by one as traces arrive, so the whole is as deterministic as they are.
    What they submit at first is one command, so that there may be any number of them.
    """
    every = [_Branch(steps) for steps in branches]
    owner: dict[int, _Branch[T]] = {}
    # by all branches; kept up to date, because thousands of branches may wait
    awaited: set[int] = set()
    try:
        yield from _begin(every, owner)
        awaited.update(*(b.awaits for b in every if b.awaits is not None))
        while any(b.awaits is not None for b in every):
            # Nothing to wait for: a budget refused it, or a branch errs. The Session knows which,
            # and ends the exploration.
            trace = cast("Trace", (yield Next(frozenset(awaited))))
            branch = owner[trace.ordinal]
            awaited -= branch.awaits or frozenset()
            branch.open.discard(trace.ordinal)
            yield from _advance(branch, trace, owner)
            awaited |= branch.awaits or frozenset()
    finally:
        for branch in every:
            branch.steps.close()
    return [cast("T", b.result) for b in every]


def _begin(
    every: Iterable[_Branch[T]], owner: dict[int, _Branch[T]]
) -> Generator[Command, Reply, None]:
    """Advance every branch to where it first waits; the requests with which they begin go out as
    one.
    """
    asked: list[tuple[_Branch[T], Submit]] = []
    for branch in every:
        command = _sent(branch, None)
        if isinstance(command, Submit):
            asked.append((branch, command))
        else:
            yield from _obeyed(branch, command, owner)
    if asked:
        granted = cast(
            "tuple[int, ...]",
            (yield Submit(tuple(r for _, command in asked for r in command.requests))),
        )
        for branch, command in asked:
            n = len(command.requests)
            _own(branch, granted[:n], owner)
            yield from _advance(branch, granted[:n], owner)
            granted = granted[n:]


def _advance(
    branch: _Branch[T], reply: Reply, owner: dict[int, _Branch[T]]
) -> Generator[Command, Reply, None]:
    """Send one reply to a branch and obey it until it waits for a trace, or returns."""
    yield from _obeyed(branch, _sent(branch, reply), owner)


def _sent(branch: _Branch[T], reply: Reply) -> Command | None:
    """Return a branch's next command; None when it has returned."""
    try:
        return branch.steps.send(reply)
    except StopIteration as ended:
        branch.awaits, branch.result = None, ended.value
        return None


def _obeyed(
    branch: _Branch[T], command: Command | None, owner: dict[int, _Branch[T]]
) -> Generator[Command, Reply, None]:
    while command is not None:
        if isinstance(command, Next):
            branch.awaits = frozenset(
                branch.open if command.among is None else command.among & branch.open
            )
            return
        reply = yield command
        if isinstance(command, Submit):
            _own(branch, cast("tuple[int, ...]", reply), owner)
        command = _sent(branch, reply)
    if branch.open:
        yield Cancel(frozenset(branch.open))


def _own(branch: _Branch[T], ordinals: tuple[int, ...], owner: dict[int, _Branch[T]]) -> None:
    branch.open.update(ordinals)
    owner.update(dict.fromkeys(ordinals, branch))


@dataclass(frozen=True, slots=True)
class Overrides:
    """What an inner exploration's requests get where they leave it open; at its defaults nothing is
    rewritten.

    `prompt` takes the place of the problem's, also in what the inner strategy builds from it.
    `subjects` are the traces that its attempts go beyond (`core.generations`).
    """

    prompt: Prompt = ""
    model: str = ""
    depth: int | None = None
    subjects: tuple[int, ...] = ()

    def __call__(self, request: Request) -> Request:
        """Return the request, rewritten. A continuation stays with its parent's model and depth."""
        fresh = request.parent is None
        beyond = (
            self.subjects
            if request.purpose in VOTING and not request.subjects
            else request.subjects
        )
        return changed(
            request,
            prompt=request.prompt or self.prompt,
            model=request.model or (self.model if fresh else ""),
            depth=self.depth if request.depth is None and fresh else request.depth,
            subjects=beyond,
        )


@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration saw: its traces by ordinal, and those it dropped, with their heirs."""

    traces: tuple[Trace, ...] = ()
    dropped: Mapping[int, int | None] = field(default_factory=dict)

    @property
    def pool(self) -> list[Trace]:
        """The traces as a selector is to see them: dropped ones without a vote of their own."""
        return list(pruned(self.traces, self.dropped))

    @property
    def attempts(self) -> list[Trace]:
        """The attempts of the pool that came to their end: neither continued nor cut off by who
        explored.
        """
        continued = {t.parent for t in self.traces}
        return [
            t
            for t in self.pool
            if t.purpose in VOTING
            and t.ordinal not in continued
            and t.finish is not Finish.CANCELLED
        ]


def run_inner(
    strategy: Strategy, problem: Problem, rng: random.Random, setting: Overrides | None = None
) -> Generator[Command, Reply, Exploration]:
    """Run a strategy's whole exploration within another's and return what it saw.

    It draws from a stream of its own, seeded by `rng`.
    """
    setting = setting or Overrides()
    steps = strategy.explore(
        changed(problem, prompt=setting.prompt or problem.prompt),
        random.Random(rng.getrandbits(64)),
    )
    if not isinstance(steps, Generator):
        raise StrategyError(
            f"explore of {type(strategy).__name__} returned {steps!r}, not a generator; write `yield from` in it"
        )
    traces: dict[int, Trace] = {}
    dropped: dict[int, int | None] = {}
    yield from gather([_watched(steps, setting, traces, dropped)])
    return Exploration(tuple(traces[o] for o in sorted(traces)), dropped)


def _watched(
    steps: Steps,
    rewrite: Callable[[Request], Request],
    traces: dict[int, Trace],
    dropped: dict[int, int | None],
) -> Steps:
    """Pass commands and replies on, with requests rewritten, and note what is delivered and
    dropped.
    """
    reply: Reply = None
    try:
        while True:
            try:
                command = steps.send(reply)
            except StopIteration:
                return
            if isinstance(command, Submit):
                # mostly one request n times
                made = {id(request): rewrite(request) for request in command.requests}
                command = Submit(tuple(made[id(request)] for request in command.requests))
            elif isinstance(command, Drop):
                dropped.update(dict.fromkeys(sorted(command.ordinals), command.heir))
            reply = yield command
            if isinstance(reply, Trace):
                traces[reply.ordinal] = reply
    finally:
        steps.close()


def representatives(explored: Exploration, select: Selector, n: int) -> list[Trace]:
    """Return the trace that speaks for each of the `n` leading answers of a pool, best answer
    first, each with its whole text.

    Of an answer's traces it is the one that the selector weighs most when it sees it alone (a
    best-of-n selector: the best one), of equal ones the lowest ordinal. The texts of what a trace
    continues are put before its own, without forced suffixes.
    """
    pool = explored.pool
    by_ordinal = {t.ordinal: t for t in pool}
    chosen = [_spokesman(cluster, by_ordinal, select) for cluster in select(pool)[:n]]
    return [changed(t, text=whole_text(lineage(t, by_ordinal))) for t in chosen]


def _spokesman(cluster: Cluster, by_ordinal: Mapping[int, Trace], select: Selector) -> Trace:
    def weight(ordinal: int) -> float:
        return sum(alone.weight for alone in select([by_ordinal[ordinal]]))

    return by_ordinal[max(cluster.ordinals, key=lambda ordinal: (weight(ordinal), -ordinal))]


def told(traces: list[Trace]) -> str:
    """Return solutions as a model is shown them: one as it is, several numbered."""
    if len(traces) == 1:
        return shown(traces[0])
    return "\n\n".join(
        f"Solution {place}:\n{shown(trace)}" for place, trace in enumerate(traces, 1)
    )
