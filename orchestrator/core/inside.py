"""One exploration run inside another: what lets a strategy be made of strategies, `refine(best_of_n(...))`, without a loop of its own.

The one rule: the inner strategy cannot tell that it is not alone (`core.together` sees to that), and the outer one sees what it made: the
traces that were delivered to it, and which of them it dropped. On the way out its requests may be rewritten: those that leave their prompt,
model, depth or subjects open get the outer's. What an inner exploration leaves running when it returns is cancelled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from orchestrator.core.errors import StrategyError
from orchestrator.core.outcome import pruned
from orchestrator.core.prompts import shown
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.steps import Command, Drop, Reply, Steps, Submit
from orchestrator.core.together import together
from orchestrator.core.types import Cluster, Finish, Problem, Prompt, Request, Trace, changed
from orchestrator.core.votes import VOTING


@dataclass(frozen=True, slots=True)
class Setting:
    """What an inner exploration's requests get where they leave it open; at its defaults nothing is rewritten.

    `prompt` takes the place of the problem's, also in what the inner strategy builds from it. `subjects` are the traces that its attempts
    go beyond (`core.generations`).
    """

    prompt: Prompt = ""
    model: str = ""
    depth: int | None = None
    subjects: tuple[int, ...] = ()

    def __call__(self, request: Request) -> Request:
        """Return the request, rewritten. A continuation stays with its parent's model and depth."""
        fresh = request.parent is None
        beyond = self.subjects if request.purpose in VOTING and not request.subjects else request.subjects
        return changed(
            request,
            prompt=request.prompt or self.prompt,
            model=request.model or (self.model if fresh else ""),
            depth=self.depth if request.depth is None and fresh else request.depth,
            subjects=beyond,
        )


@dataclass(frozen=True, slots=True)
class Explored:
    """What an exploration saw: its traces by ordinal, and those it dropped, with their heirs."""

    traces: tuple[Trace, ...] = ()
    dropped: Mapping[int, int | None] = field(default_factory=dict)

    @property
    def pool(self) -> list[Trace]:
        """The traces as a selector is to see them: dropped ones without a vote of their own."""
        return list(pruned(self.traces, self.dropped))

    @property
    def attempts(self) -> list[Trace]:
        """The attempts of the pool that came to their end: neither continued nor cut off by who explored."""
        continued = {t.parent for t in self.traces}
        return [t for t in self.pool if t.purpose in VOTING and t.ordinal not in continued and t.finish is not Finish.CANCELLED]


def inside(strategy: Strategy, problem: Problem, rng: random.Random, setting: Setting | None = None) -> Generator[Command, Reply, Explored]:
    """Run a strategy's whole exploration within another's and return what it saw. It draws from a stream of its own, seeded by `rng`."""
    setting = setting or Setting()
    steps = strategy.explore(changed(problem, prompt=setting.prompt or problem.prompt), random.Random(rng.getrandbits(64)))
    if not isinstance(steps, Generator):
        raise StrategyError(f"explore of {type(strategy).__name__} returned {steps!r}, not a generator; write `yield from` in it")
    traces: dict[int, Trace] = {}
    dropped: dict[int, int | None] = {}
    yield from together([_watched(steps, setting, traces, dropped)])
    return Explored(tuple(traces[o] for o in sorted(traces)), dropped)


def _watched(steps: Steps, rewrite: Callable[[Request], Request], traces: dict[int, Trace], dropped: dict[int, int | None]) -> Steps:
    """Pass commands and replies on, with requests rewritten, and note what is delivered and dropped."""
    reply: Reply = None
    try:
        while True:
            try:
                command = steps.send(reply)
            except StopIteration:
                return
            if isinstance(command, Submit):
                made = {id(request): rewrite(request) for request in command.requests}  # mostly one request n times
                command = Submit(tuple(made[id(request)] for request in command.requests))
            elif isinstance(command, Drop):
                dropped.update(dict.fromkeys(sorted(command.ordinals), command.heir))
            reply = yield command
            if isinstance(reply, Trace):
                traces[reply.ordinal] = reply
    finally:
        steps.close()


def spokesmen(explored: Explored, select: Selector, n: int) -> list[Trace]:
    """Return the trace that speaks for each of the `n` leading answers of a pool, best answer first, each with its whole text.

    Of an answer's traces it is the one that the selector weighs most when it sees it alone (a best-of-n selector: the best one), of equal
    ones the lowest ordinal. The texts of what a trace continues are put before its own, without forced suffixes.
    """
    pool = explored.pool
    by_ordinal = {t.ordinal: t for t in pool}
    return [_whole(_spokesman(cluster, by_ordinal, select), by_ordinal) for cluster in select(pool)[:n]]


def _spokesman(cluster: Cluster, by_ordinal: Mapping[int, Trace], select: Selector) -> Trace:
    def weight(ordinal: int) -> float:
        return sum(alone.weight for alone in select([by_ordinal[ordinal]]))

    return by_ordinal[max(cluster.ordinals, key=lambda ordinal: (weight(ordinal), -ordinal))]


def _whole(trace: Trace, by_ordinal: Mapping[int, Trace]) -> Trace:
    text, parent = trace.text, trace.parent
    while parent is not None and parent in by_ordinal:
        text, parent = by_ordinal[parent].text + text, by_ordinal[parent].parent
    return changed(trace, text=text)


def told(traces: list[Trace]) -> str:
    """Return solutions as a model is shown them: one as it is, several numbered."""
    if len(traces) == 1:
        return shown(traces[0])
    return "\n\n".join(f"Solution {place}:\n{shown(trace)}" for place, trace in enumerate(traces, 1))
