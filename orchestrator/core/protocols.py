"""The ports: what a plugin or a backend offers. Structural types; nobody inherits from them.

A plugin is a frozen dataclass whose fields are its options. It may also state, as plain attributes
or properties: `needs: frozenset[Capability]` (what the engine must be able to do; checked at plan
time), `metrics: tuple[str, ...]` (named scalars that each trace must carry; see `core.folds`),
`verifiers: tuple[str, ...]` (those whose verdicts it reads), `n_full: int` (how many traces it
takes without early stopping), `pools: tuple[str, ...]` (model pools that it names in options other
than `model`), `tasks: Mapping[str, tuple[str, ...]]` (of pools that are to value texts, the
`core.plan.TASKS` that will do), `parts: Mapping[str, str]` (options that are plugins themselves,
with their groups), `selector: PluginSpec` (a strategy's: the vote its decisions are about, where
the user names none); and, as a static method, `lacking() -> str`: what the machine lacks for it, ""
for nothing, which `leadline doctor` shows.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Protocol, TypeAlias

from orchestrator.core.plan import Model
from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Capability, Cluster, Prefix, Problem, Request, Trace, Verdict

VerdictSteps: TypeAlias = Generator[Command, Reply, Verdict]
Pair: TypeAlias = tuple[Prefix, Prefix]
Scores: TypeAlias = Generator[Command, Reply, list[float | None]]


class Strategy(Protocol):
    """Explores one problem. Deterministic in (problem, rng, traces)."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Return the generator that explores `problem`, whose prompt is in the plan's template and
        has its system message.
        """
        ...


class Selector(Protocol):
    """Ranks answers. A pure function over a pool, in any order; [] when nobody stated an answer."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters, best first."""
        ...


class Verifier(Protocol):
    """Scores traces, batched."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return one verdict per trace, in order."""
        ...


class ModelVerifier(Protocol):
    """Scores a trace by asking models: the second form of a verifier, of the same group."""

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict on one trace, whose text is the whole of what it continues and its
        own.

        A generator that submits requests (`purpose=VERIFY`) and waits for them, as a strategy does.
        NoVerdict where it comes to none, as when a request failed. Its verdict must not depend on
        the order in which replies arrive.
        """
        ...


class IsolatedVerifier(Protocol):
    """Scores a trace by code that may hang, crash or eat memory: the third form of a verifier.

    It is built and called in a process that can be killed, and that outlives the call. It may have
    `warm_up()`, called once in each process before the first trace, and `revision: str`, the state
    of its own code: when that changes, new processes are started.
    """

    @property
    def seconds(self) -> float:
        """How long one call may take."""
        ...

    @property
    def memory_mib(self) -> int:
        """The address space of its process, imports included; at least 256."""
        ...

    def check(self, problem: Problem, trace: Trace) -> Verdict:
        """Return the verdict on one trace. What it raises becomes the trace's note."""
        ...


class Similarity(Protocol):
    """Tells whether unfinished traces of one problem will come to the same answer.

    It may state `probe: Request`, which each prefix that states no answer is then continued with
    before it is compared.
    """

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return P(same answer) of each pair, in order: a float in [0, 1], or None where it cannot
        tell.

        A generator that may submit requests (`purpose=COMPARE`) and wait for them. A pair's score
        depends on nothing but that pair.
        """
        ...


class Domain(Protocol):
    """How answers of one kind are read and compared."""

    # True: extract and canonical take linear time and may run in the caller's process
    in_process: ClassVar[bool]

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the stated answer, or None to abstain.

        With `finished` False (truncated, cancelled) only an explicit statement counts.
        """
        ...

    def canonical(self, answer: str) -> str:
        """Return a normal form.

        One that starts with "=" is complete: two complete forms are equivalent exactly when
        identical.
        """
        ...

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers are the same.

        May be slow or hang: called only in a killable process.
        """
        ...


class Engine(Protocol):
    """Completes requests. A Fleet is itself an Engine."""

    async def generate(self, request: Request) -> Trace:
        """Return the undressed trace. A request that cannot be served comes back FAILED; an engine
        that cannot serve raises EngineError.

        Cancelling the awaiting task aborts the generation.
        """
        ...

    def abort(self, request: Request) -> None:
        """Stop a running request: its pending `generate` returns a CANCELLED trace with the tokens
        so far. Unknown ones are ignored.
        """
        ...


class EngineFactory(Protocol):
    """An engine plugin: a frozen dataclass of options from which engines are opened."""

    def capabilities(self) -> frozenset[Capability]:
        """Return what its engines can do. Cheap: called at plan time, before anything starts."""
        ...

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[Engine]:
        """Return a context that starts the engine for these model pools and stops it.

        EngineError when it cannot start.
        """
        ...
