"""One problem's exploration: runs a strategy's generator, turns its commands into effects, keeps
its budget, and replays.

Pure: no I/O, no clock, no randomness but what derives from the plan's seed. The driver performs the
effects, journals every arriving trace and stop, and then tells the Session; feeding the journalled
events to a fresh Session in order rebuilds it exactly. It does not vote: `core.outcome` does, over
`traces`.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.core.errors import StrategyError, described
from orchestrator.core.lineage import lineage
from orchestrator.core.plan import Plan, derive_seed
from orchestrator.core.protocols import Strategy
from orchestrator.core.steps import Cancel, Drop, Next, Reply, Steps, Submit
from orchestrator.core.values import Finish, Message, Problem, Prompt, Request, Trace, changed
from orchestrator.core.votes import VOTING

# between two waits, deliveries not counted; a strategy that gives more without waiting will not end
MAX_COMMANDS = 10_000


@dataclass(frozen=True, slots=True)
class Start:
    """Effect: generate this request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """Effect: stop generating this request; its CANCELLED trace is still to be received."""

    request: Request


Effect: TypeAlias = Start | Abort


class Session:
    """Drives one strategy over one problem.

    Call `start` once, then `receive` for every trace of a started request, or `stop`.
    """

    __slots__ = (
        "_cancelled",
        "_inbox",
        "_next_ordinal",
        "_plan",
        "_prompt",
        "_refused",
        "_steps",
        "_suffixes",
        "_waiting",
        "dropped",
        "error",
        "metrics",
        "output_tokens",
        "problem",
        "running",
        "stopped_by",
        "traces",
    )

    def __init__(
        self, problem: Problem, strategy: Strategy, plan: Plan, metrics: tuple[str, ...] = ()
    ) -> None:
        """Prepare the exploration; nothing of the strategy runs yet.

        `metrics` are asked of every trace that may vote.
        """
        self.problem = problem
        self.metrics = metrics
        self.traces: dict[int, Trace] = {}  # by ordinal, in order of arrival
        self.running: dict[int, Request] = {}
        # ordinal -> heir: those without a vote of their own (`core.outcome.pruned`)
        self.dropped: dict[int, int | None] = {}
        self.output_tokens = 0  # of all traces that arrived, and of models that verified them
        self.stopped_by = ""
        self.error = ""
        self._plan = plan
        self._prompt = prepared_prompt(problem, plan)
        self._suffixes: dict[int, str] = {}
        self._cancelled: set[int] = set()
        self._inbox: list[Trace] = []
        self._waiting: Next | None = None
        self._next_ordinal = 0
        self._refused = False
        rng = random.Random(derive_seed(plan.seed, problem.id, "strategy"))
        self._steps: Steps | None = None
        try:
            # the question as it is asked
            steps = strategy.explore(changed(problem, prompt=self._prompt), rng)
            if not isinstance(steps, Generator):
                raise StrategyError(
                    f"explore returned {steps!r}, not a generator; write `yield from` in it"
                )
            self._steps = steps
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job goes on
            self.error = described(error)

    @property
    def exploring(self) -> bool:
        """Whether the strategy still decides."""
        return self._steps is not None

    @property
    def done(self) -> bool:
        """Whether exploration has ended and everything started has arrived."""
        return self._steps is None and not self.running

    def start(self) -> list[Effect]:
        """Return the first effects."""
        return self._advance(None)

    def receive(self, trace: Trace) -> list[Effect]:
        """Take one arrived trace and return the effects that follow.

        KeyError if its request is not running.
        """
        del self.running[trace.ordinal]
        self._cancelled.discard(trace.ordinal)
        self.traces[trace.ordinal] = trace
        self.output_tokens += trace.usage.output_tokens + trace.verifying.output_tokens
        if self._steps is None:
            return []
        self._inbox.append(trace)
        limit = self._plan.budget.tokens
        if limit and self.output_tokens >= limit:
            return self.stop("tokens")
        wanted = self._waiting
        if wanted is None or (wanted.among is not None and trace.ordinal not in wanted.among):
            return []  # nothing that arrived before is wanted either
        delivered = self._take(wanted)
        return [] if delivered is None else self._advance(delivered)

    def stop(self, reason: str) -> list[Effect]:
        """End exploration for a reason other than the strategy's own ("tokens", "seconds",
        "interrupt"); no effect once ended.
        """
        if self._steps is None:
            return []
        self.stopped_by = reason
        return self._end()

    def owed(self) -> list[Request]:
        """Return the requests that were started, neither arrived nor cancelled: what a resumed job
        starts again.
        """
        return [r for o, r in self.running.items() if o not in self._cancelled]

    def lost(self) -> list[Request]:
        """Return the requests that were cancelled and never arrived: a resumed job records them as
        cancelled, tokens unknown.
        """
        return [r for o, r in self.running.items() if o in self._cancelled]

    def is_cancelled(self, ordinal: int) -> bool:
        """Tell whether a running request was cancelled: one that has not been started yet need not
        be.
        """
        return ordinal in self._cancelled

    def _advance(self, reply: Reply) -> list[Effect]:
        effects: list[Effect] = []
        self._waiting = None
        if self._steps is None:
            return effects
        n_commands = 0
        while n_commands < MAX_COMMANDS:
            try:
                command = self._steps.send(reply)
                if isinstance(command, Next):
                    trace = self._take(command)
                    if trace is None:
                        return effects + self._wait(command)
                    reply = trace
                else:
                    n_commands += 1
                    reply = self._obey(command, effects)
            except StopIteration:
                return effects + self._end()
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job goes on
                self.error = described(error)
                return effects + self._end()
        self.error = f"the strategy gave {MAX_COMMANDS} commands without waiting for a trace: it would never end"
        return effects + self._end()

    def _obey(self, command: Submit | Cancel | Drop, effects: list[Effect]) -> Reply:
        if isinstance(command, Submit):
            return self._submit(command.requests, effects)
        if isinstance(command, Cancel):
            effects += self._abort(command.ordinals)
            return None
        if isinstance(command, Drop):
            effects += self._drop(command)
            return None
        raise StrategyError(
            f"a strategy yields Submit, Next, Cancel or Drop, not {command!r}; write `yield from`, not `yield`"
        )

    def _submit(self, requests: Sequence[Request], effects: list[Effect]) -> tuple[int, ...]:
        limit = self._plan.budget.traces
        granted = requests[: max(0, limit - self._next_ordinal)] if limit else requests
        if len(granted) < len(requests):
            self._refused = True
        first = self._next_ordinal
        completed = self._completed(granted, first)
        self._next_ordinal += len(completed)
        for request in completed:
            self.running[request.ordinal] = request
            effects.append(Start(request))
        return tuple(range(first, self._next_ordinal))

    def _completed(self, requests: Sequence[Request], first: int) -> list[Request]:
        completed: list[Request] = []
        given: Request | None = None
        template: Request | None = None
        for ordinal, request in enumerate(requests, first):
            seed = derive_seed(self._plan.seed, self.problem.id, ordinal)
            if request is not given or template is None:  # mostly the same one n times
                given, template = request, self._complete(request, ordinal, seed)
                completed.append(template)
            else:
                completed.append(changed(template, ordinal=ordinal, seed=seed))
            if request.suffix:
                self._suffixes[ordinal] = request.suffix
        return completed

    def _complete(self, request: Request, ordinal: int, seed: int) -> Request:
        if not isinstance(request, Request):
            raise StrategyError(f"Submit takes Requests, not {request!r}")
        model, depth = request.model, request.depth
        links: list[Trace] = []
        if request.parent is not None:
            parent = self.traces.get(request.parent)
            if parent is None or parent.finish is Finish.FAILED:
                raise StrategyError(
                    f"request {ordinal} continues trace {request.parent}, which has not arrived or has failed"
                )
            model, depth = model or parent.model, depth if depth is not None else parent.depth
            links = lineage(parent, self.traces)
        if model and model not in self._plan.models:
            raise StrategyError(
                f"request {ordinal} asks for model {model!r}; the plan has {', '.join(self._plan.models)}"
            )
        if request.max_new_tokens is not None and request.max_new_tokens < 1:
            raise StrategyError(
                f"request {ordinal} asks for {request.max_new_tokens} new tokens; at least one is needed"
            )
        if request.depth is not None and request.depth < 1:
            raise StrategyError(
                f"request {ordinal} asks for depth {request.depth}; at least 1 is needed"
            )
        if request.checkpoint is not None and request.checkpoint < 1:
            raise StrategyError(
                f"request {ordinal} has its checkpoint after {request.checkpoint} tokens; at least one is needed"
            )
        sampling = request.sampling or self._plan.sampling
        limit = request.max_new_tokens
        if limit is None:  # a continuation has what its attempt has left, at least one token
            limit = max(1, sampling.max_new_tokens - sum(len(t.token_ids) for t in links))
        # at its limit, if by nothing else
        ends = request.checkpoint is None or request.checkpoint >= limit
        ids, text = self._inherited(links)
        return changed(
            request,
            ordinal=ordinal,
            seed=seed,
            prompt=request.prompt or self._prompt,
            model=model or self._plan.default_model,
            depth=depth or sampling.depth or None,
            sampling=sampling,
            max_new_tokens=limit if ends else request.checkpoint,
            checkpoint=None if ends else request.checkpoint,
            stop=request.stop or sampling.stop,
            metrics=tuple(
                dict.fromkeys(
                    (*request.metrics, *(self.metrics if request.purpose in VOTING else ()))
                )
            ),
            problem_id=self.problem.id,
            prefix_ids=ids,
            prefix_text=text,
        )

    def _inherited(self, links: Sequence[Trace]) -> tuple[tuple[int, ...], str]:
        """Return the token ids and the text of a lineage, with the suffixes that were forced."""
        ids: list[int] = []
        text = ""
        for link in links:
            ids += link.suffix_ids
            ids += link.token_ids
            text += self._suffixes.get(link.ordinal, "") + link.text
        return tuple(ids), text

    def _take(self, wanted: Next) -> Trace | None:
        for index, trace in enumerate(self._inbox):
            if wanted.among is None or trace.ordinal in wanted.among:
                return self._inbox.pop(index)
        return None

    def _wait(self, command: Next) -> list[Effect]:
        awaited = self.running if command.among is None else command.among & self.running.keys()
        if awaited:
            self._waiting = command
            return []
        if self._refused:
            self.stopped_by = "traces"
        else:
            among = "" if command.among is None else f" among {sorted(command.among)}"
            self.error = f"StrategyError: it waits for a trace{among} while none is running"
        return self._end()

    def _drop(self, command: Drop) -> list[Effect]:
        unknown = [
            o
            for o in (*command.ordinals, *(() if command.heir is None else (command.heir,)))
            if not 0 <= o < self._next_ordinal
        ]
        if unknown:
            raise StrategyError(
                f"it drops, or leaves a vote to, request {min(unknown)}, which was never submitted"
            )
        if command.heir in command.ordinals:
            raise StrategyError(f"request {command.heir} is dropped and is its own heir")
        self.dropped.update(dict.fromkeys(sorted(command.ordinals), command.heir))
        return self._abort(command.ordinals)

    def _abort(self, ordinals: frozenset[int]) -> list[Effect]:
        fresh = [o for o in self.running if o in ordinals and o not in self._cancelled]
        self._cancelled.update(fresh)
        return [Abort(self.running[o]) for o in fresh]

    def _end(self) -> list[Effect]:
        steps, self._steps, self._waiting = self._steps, None, None
        self._inbox.clear()
        if self._refused and not self.stopped_by:
            self.stopped_by = "traces"
        try:
            if steps is not None:
                steps.close()
        except Exception as error:  # noqa: BLE001 - a generator may refuse to close
            self.error = self.error or described(error)
        return self._abort(frozenset(self.running))


def prepared_prompt(problem: Problem, plan: Plan) -> Prompt:
    """Return the problem's prompt in the plan's template, with its system message unless the
    problem brings its own.
    """
    sampling = plan.sampling
    prompt = problem.prompt
    if isinstance(prompt, str):
        prompt = sampling.template.replace("{prompt}", prompt)
        return (
            (Message("system", sampling.system), Message("user", prompt))
            if sampling.system
            else prompt
        )
    if sampling.system and all(m.role != "system" for m in prompt):
        return (Message("system", sampling.system), *prompt)
    return prompt
