"""The protocols of plugins and engines, and the attributes that a plugin may also declare.

A plugin is a frozen dataclass; its fields are its options. Do not inherit from the protocols here:
any class with the right methods is a plugin. A plugin may also declare, as plain attributes, class
variables or properties:

- `needs: frozenset[Capability]`: what the engine must be able to do; checked at plan time.
- `metrics: tuple[str, ...]`: named scalars that each trace must carry (`core.metrics`).
- `verifiers: tuple[str, ...]`: the verifiers whose verdicts the plugin reads.
- `n_planned: int`: the most attempts that a strategy makes if nothing stops it early.
- `fitted(sampling) -> Strategy` (strategies): the same rule with defaults that depend on the plan's
  `core.values.Sampling`, such as on the length of an attempt.
- `worth(traces, n_started) -> float` (strategies): how much another attempt is worth, where the
  problems of a job share a budget; without it the votes decide (`runtime.driver.allocation.worth`).
- `is_one_request: bool` (strategies): True if its first request is its only one and its reply, so
  that the text may be shown while it is generated.
- `pools: tuple[str, ...]`: the model pools named in options other than `model`.
- `tasks: Mapping[str, tuple[str, ...]]`: the acceptable `core.plan.TASKS` of each pool that must
  return values instead of text.
- `parts: Mapping[str, str]`: options that are plugins themselves, with their groups.
- `former_options: Mapping[str, str]`: names of options in earlier versions, mapped to their names
  today; plans and jobs that use the former names still load.
- `selector: PluginSpec` (strategies): the selector that the strategy's decisions assume; it is used
  where the user names none.
- `loads_models: bool` (engines): False if the engine does not load the plan's models itself; their
  files are then not inspected.
- `is_remote: bool` (engines): True if servers elsewhere hold the models, so that to share an open
  engine between commands saves nothing.
- `expects: str` (domains): what a reference must be, for messages, such as "one number".
- `lists_are_values: bool` (domains): True if a list in a row's `answer` is one value. Elsewhere its
  items are aliases: any of them is right.
- `reads_calls: bool` (domains): True if the answer of an attempt that calls tools is its calls, as
  the text of one JSON array of names and arguments; elsewhere it is read from the reply beside
  them.
- `describe(answer) -> str` (domains): an answer's type and value in one line, for
  `leadline answers`. It may be slow: it is called only in a process that can be killed.
- `warm_up() -> None` (domains, isolated verifiers): called once in each worker process.
- `revision: str` (isolated verifiers): identifies the state of code that the verifier loads from
  elsewhere; when it changes, the worker processes are replaced.
- `lacking() -> str` (a static method): what the plugin needs and this machine lacks, "" if nothing;
  `leadline doctor` prints it.

Options named `model`, `depth`, `depths`, `judge` and `judge_depth` are recognised by name: the pool
and the latent depths of a plugin's requests, and the pool and the depth of its judge.
`orchestrator.testing` checks that a plugin follows its protocol.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

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

        The prompt already includes the plan's template and system message.
        """


class Selector(Protocol):
    """Ranks answers: a pure function over a pool in any order."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return the clusters, best first; [] when no trace has an answer."""


class Verifier(Protocol):
    """Scores traces in batches."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return one verdict per trace, in order."""


class ModelVerifier(Protocol):
    """Scores a trace by querying models: the second form of a verifier, in the same group."""

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        """Return the verdict on one trace, which has the text of its whole lineage.

        A generator that submits requests (`purpose=VERIFY`) and waits for them, as a strategy does.
        It raises NoVerdict when it cannot reach a verdict, for example because a request failed.
        The verdict must not depend on the order in which replies arrive.
        """


class IsolatedVerifier(Protocol):
    """Scores a trace with code that may hang, crash or exhaust memory: a verifier's third form.

    The verifier is built and called in a worker process. The process is killed when a call exceeds
    a limit; otherwise it is reused for the next trace.
    """

    @property
    def seconds(self) -> float:
        """The time limit of one call, in seconds."""

    @property
    def memory_mib(self) -> int:
        """The limit on the address space of the process, imports included; at least 256."""

    def check(self, problem: Problem, trace: Trace) -> Verdict:
        """Return the verdict on one trace; an exception's message becomes the trace's note."""


class Similarity(Protocol):
    """Estimates whether unfinished traces of one problem will come to the same answer.

    It may declare `probe: Request`. Each prefix without an answer is then continued with this probe
    before it is compared.
    """

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return P(same answer) of each pair, in order, in [0, 1]; None where it cannot tell.

        A generator that may submit requests (`purpose=COMPARE`) and wait for them. The score of a
        pair depends on that pair alone.
        """


class Domain(Protocol):
    """How answers of one kind are read and compared.

    A class attribute `in_process = True` declares that `extract` and `canonical` take linear time,
    so that they may run in the caller's process (`runs_in_process`); without it, they run where
    `equivalent` does.

    Three more methods are used where a domain has them. `resolve(answer) -> str` returns the key of
    the answer's class, computed from this answer alone: two answers are one exactly when their keys
    are equal, and `equivalent` says the same. It may be slow or hang, so it is called only in a
    process that can be killed. `accepts(answer, reference) -> bool` tells whether an answer is
    right by a reference where that is wider than equality, as within a tolerance.
    `read_reference(text) -> str | None` returns the answer that a reference gives ("18", "#### 18",
    "The answer is 18."), None if it cannot be read; without it, a reference is an answer. These two
    take linear time and run where `extract` does.
    """

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the answer in a text, or None to abstain.

        With `finished` False (truncated or cancelled), only an explicit answer counts.
        """

    def canonical(self, answer: str) -> str:
        """Return the answer's normal form.

        A normal form that starts with "=" is complete: two complete forms are equivalent exactly
        when they are identical.
        """

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers are the same: reflexive, symmetric and transitive.

        This may be slow or hang: it is called only in a process that can be killed.
        """


def runs_in_process(domain: Domain) -> bool:
    """Tell whether a domain's `extract` and `canonical` may run in the caller's process."""
    return bool(getattr(domain, "in_process", False))


class Engine(Protocol):
    """Completes requests. A fleet of engines is itself an Engine."""

    async def generate(self, request: Request) -> Trace:
        """Return the trace of a request, not annotated yet.

        A request that cannot be served yields a FAILED trace; one that can be served later raises
        Unavailable; an engine that cannot serve any request raises EngineError. Cancelling the
        awaiting task aborts the generation.
        """

    def abort(self, request: Request) -> None:
        """Stop a running request; unknown requests are ignored.

        The pending `generate` returns a CANCELLED trace with the tokens so far.
        """

    # More members are used where an engine has them. `n_gpus: float` are the GPUs that it occupies,
    # for `budget.gpu_seconds` and `prices.gpu_hour`; where their number changes it is the most that
    # there may be, and `gpu_seconds() -> float` are the GPU-seconds so far, its start included.
    # `running_tokens() -> int` returns the output tokens so far of the requests that run, for
    # display. `notices() -> tuple[str, ...]` are what it lacks now, for display too, and
    # `unplaced() -> tuple[float, str]` for how many seconds parts of it had no place to run so far,
    # and the last reason.


class StreamingEngine(Engine, Protocol):
    """An engine that can report the text of a request while it is generated."""

    def listen(self, request: Request, on_text: Callable[[str], None]) -> None:
        """Call `on_text` with each new piece of text during this request's next `generate`.

        The pieces are, one after another, the beginning of the trace's text, with its tags of
        thinking. A request for which that cannot be promised is not reported at all.
        """


class EngineFactory(Protocol):
    """An engine plugin: a frozen dataclass of options from which engines are opened."""

    def capabilities(self) -> frozenset[Capability]:
        """Return the capabilities of its engines; cheap, because it is called before any start."""

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[Engine]:
        """Return a context that starts the engine for these model pools and stops it.

        EngineError when it cannot start.
        """


@dataclass(frozen=True, slots=True)
class EngineNode:
    """One of the nodes over which an engine is spread; the first one serves its requests."""

    rank: int  # 0 is the first
    addresses: tuple[str, ...]  # of all nodes, by rank
    port: int  # free on the first node, where the others find it

    @property
    def address(self) -> str:
        """The address of this node."""
        return self.addresses[self.rank]


class EnginePart(Protocol):
    """The part of an engine on a node other than the first."""

    async def wait(self) -> str:
        """Return the reason when it has ended."""


class SpreadFactory(EngineFactory, Protocol):
    """An engine plugin whose engines may be spread over several nodes."""

    def on_node(self, node: EngineNode) -> PartFactory:
        """Return the factory of the part on this node; that of rank 0 opens the engine itself."""


class PartFactory(Protocol):
    """Opens one part of an engine that is spread over several nodes."""

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[Engine | EnginePart]:
        """Return a context that starts the part, once all others start theirs, and stops it."""
