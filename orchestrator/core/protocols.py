"""What a plugin or an engine offers: the protocols, and what else a plugin may declare.

A plugin is a frozen dataclass whose fields are its options. Nobody inherits from the protocols
here: a class that has the methods is a plugin. Beside its methods a plugin may declare, as plain
attributes, class variables or properties:

- `needs: frozenset[Capability]`: what the engine must be able to do; checked at plan time.
- `metrics: tuple[str, ...]`: named scalars that each trace must carry (`core.metrics`).
- `verifiers: tuple[str, ...]`: the verifiers whose verdicts it reads.
- `n_planned: int`: how many attempts a strategy makes at most, if nothing stops it early.
- `pools: tuple[str, ...]`: the model pools that it names in options other than `model`.
- `tasks: Mapping[str, tuple[str, ...]]`: of pools that are to value texts, the acceptable
  `core.plan.TASKS`.
- `parts: Mapping[str, str]`: its options that are plugins themselves, with their groups.
- `former_options: Mapping[str, str]`: options by the names that earlier versions gave them, each
  with its name today; plans and jobs that were written with the former names still load.
- `selector: PluginSpec`: a strategy's: the vote that its decisions are about, which is taken where
  the user names none.
- `loads_models: bool`: an engine's: False where the plan's models are mere names to it, so that
  nobody looks into their files.
- `warm_up() -> None`: a domain's or an isolated verifier's: called once in each worker process.
- `revision: str`: an isolated verifier's: the state of code that it reads from elsewhere; when that
  changes, its worker processes are replaced.
- `lacking() -> str`: a static method: what this machine lacks for it, "" for nothing; shown by
  `leadline doctor`.

Options named `model`, `depth`, `depths`, `judge` and `judge_depth` are read by their names: the
pool that a plugin asks, the latent depths that it asks for, and the same of its judge.
`orchestrator.testing` checks whether a plugin keeps its protocol.
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
        """Return the generator that explores `problem`.

        Its prompt is in the plan's template and has the plan's system message.
        """


class Selector(Protocol):
    """Ranks answers: a pure function over a pool in any order."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters, best first; [] when no trace gives an answer."""


class Verifier(Protocol):
    """Scores traces, batched."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return one verdict per trace, in order."""


class ModelVerifier(Protocol):
    """Scores a trace by asking models: the second form of a verifier, of the same group."""

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict on one trace, whose text is that of its whole lineage.

        A generator that submits requests (`purpose=VERIFY`) and waits for them, as a strategy does.
        It raises NoVerdict where it comes to none, as when a request failed. Its verdict must not
        depend on the order in which replies arrive.
        """


class IsolatedVerifier(Protocol):
    """Scores a trace by code that may hang, crash or eat memory: the third form of a verifier.

    It is built and called in a worker process, which is killed when a call reaches a limit and kept
    for the next trace otherwise.
    """

    @property
    def seconds(self) -> float:
        """How long one call may take."""

    @property
    def memory_mib(self) -> int:
        """The address space of its process, imports included; at least 256."""

    def check(self, problem: Problem, trace: Trace) -> Verdict:
        """Return the verdict on one trace. What it raises becomes the trace's note."""


class Similarity(Protocol):
    """Estimates whether unfinished traces of one problem will come to the same answer.

    It may declare `probe: Request`. Each prefix that gives no answer is then continued with it
    before it is compared.
    """

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return P(same answer) of each pair, in order, in [0, 1]; None where it cannot tell.

        A generator that may submit requests (`purpose=COMPARE`) and wait for them. The score of a
        pair depends on nothing but that pair.
        """


class Domain(Protocol):
    """How answers of one kind are read and compared."""

    # True: `extract` and `canonical` take linear time and may run in the caller's process
    in_process: ClassVar[bool]

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the answer that a text gives, or None to abstain.

        With `finished` False (truncated, cancelled) only an explicit statement counts.
        """

    def canonical(self, answer: str) -> str:
        """Return a normal form.

        One that starts with "=" is complete: two complete forms are equivalent exactly when they
        are identical.
        """

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers are the same.

        It may be slow or hang: it is called only in a process that can be killed.
        """


class Engine(Protocol):
    """Completes requests. A fleet of engines is itself an Engine."""

    async def generate(self, request: Request) -> Trace:
        """Return the trace of a request, not annotated yet.

        A request that cannot be served comes back FAILED; an engine that cannot serve raises
        EngineError. Cancelling the task that awaits it aborts the generation.
        """

    def abort(self, request: Request) -> None:
        """Stop a running request; unknown ones are ignored.

        Its pending `generate` returns a CANCELLED trace with the tokens so far.
        """


class EngineFactory(Protocol):
    """An engine plugin: a frozen dataclass of options from which engines are opened."""

    def capabilities(self) -> frozenset[Capability]:
        """Return what its engines can do. Cheap: called before anything starts."""

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[Engine]:
        """Return a context that starts the engine for these model pools and stops it.

        EngineError when it cannot start.
        """
