"""One problem's exploration: runs a strategy, keeps its budget, and replays.

The Session turns the strategy's commands into effects. Pure: no I/O, no clock, and all randomness
derives from the plan's seed. The driver performs the effects, journals every stop and every trace
that arrives, and then passes them to the Session. Feeding the journalled events to a fresh Session
in the same order rebuilds it exactly. The Session does not vote: `core.votes` does, over `traces`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.core.errors import StrategyError, describe
from orchestrator.core.lineage import lineage
from orchestrator.core.plan import Plan, derive_seed
from orchestrator.core.protocols import Strategy
from orchestrator.core.session.prompts import prepared_prompt
from orchestrator.core.steps import Cancel, Drop, Next, Note, Reply, Routine, Submit
from orchestrator.core.values import (
    TOOL_FIELDS,
    Finish,
    Problem,
    Purpose,
    Request,
    Sampling,
    Trace,
    changed,
)
from orchestrator.core.votes import VOTING

# between two waits, not counting deliveries; a strategy that yields more would never end
MAX_COMMANDS = 10_000
# of one problem: they take some 50 MB, and no study of many attempts has come near
MAX_REQUESTS = 100_000


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
        "_routine",
        "_stop",
        "_suffixes",
        "_waiting",
        "dropped",
        "error",
        "metrics",
        "notes",
        "output_tokens",
        "problem",
        "reasons",
        "running",
        "stopped_by",
        "traces",
    )

    def __init__(
        self, problem: Problem, strategy: Strategy, plan: Plan, metrics: tuple[str, ...] = ()
    ) -> None:
        """Prepare the exploration without running any of the strategy yet.

        Every trace that may vote must carry `metrics`.
        """
        self.problem = problem
        self.metrics = metrics
        self.traces: dict[int, Trace] = {}  # by ordinal, in order of arrival
        self.running: dict[int, Request] = {}
        # ordinal to heir, of traces without a vote of their own (`core.votes.pruned`)
        self.dropped: dict[int, int | None] = {}
        self.reasons: dict[int, str] = {}  # why each was dropped or cancelled, if that is known
        self.notes: list[Note] = []
        self.output_tokens = 0  # of all traces that arrived, and of models that verified them
        self.stopped_by = ""
        self.error = ""
        self._plan = plan
        self._prompt = prepared_prompt(problem, plan)
        self._stop = plan.few_shot.stop
        self._suffixes: dict[int, str] = {}
        self._cancelled: set[int] = set()
        self._inbox: list[Trace] = []
        self._waiting: Next | None = None
        self._next_ordinal = 0
        self._refused = False
        rng = random.Random(derive_seed(plan.seed, problem.id, "strategy"))
        self._routine: Routine[None] | None = None
        try:
            # the strategy sees the same prompt as the model
            steps = strategy.explore(changed(problem, prompt=self._prompt), rng)
            self._routine = Routine(steps, f"explore of {type(strategy).__name__}")
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job continues
            self.error = describe(error)

    @property
    def exploring(self) -> bool:
        """Whether the strategy still decides."""
        return self._routine is not None

    @property
    def n_submitted(self) -> int:
        """The number of requests submitted so far: the next ordinal."""
        return self._next_ordinal

    @property
    def done(self) -> bool:
        """Whether exploration has ended and every started request has arrived."""
        return self._routine is None and not self.running

    def start(self) -> list[Effect]:
        """Return the first effects."""
        return self._advance(None)

    def receive(self, trace: Trace) -> list[Effect]:
        """Accept a trace that arrived and return the effects that follow.

        KeyError if the trace's request is not running.
        """
        del self.running[trace.ordinal]
        self._cancelled.discard(trace.ordinal)
        self.traces[trace.ordinal] = trace
        self.output_tokens += trace.usage.output_tokens + trace.verification_usage.output_tokens
        if self._routine is None:
            return []
        self._inbox.append(trace)
        limit = self._plan.budget.tokens
        if limit and self.output_tokens >= limit:
            return self.stop("tokens")
        wanted = self._waiting
        if wanted is None or (wanted.among is not None and trace.ordinal not in wanted.among):
            return []  # the strategy waits, so it wants no trace that the inbox already holds
        delivered = self._take(wanted)
        return [] if delivered is None else self._advance(delivered)

    def stop(self, reason: str) -> list[Effect]:
        """End exploration from outside, for a reason such as "tokens", "seconds" or "interrupt".

        Returns no effects when it has ended already.
        """
        if self._routine is None:
            return []
        self.stopped_by = reason
        return self._end()

    def owed(self) -> list[Request]:
        """Return the running requests that were not cancelled: a resumed job starts them again."""
        return [r for o, r in self.running.items() if o not in self._cancelled]

    def lost(self) -> list[Request]:
        """Return the cancelled requests whose traces did not arrive.

        A resumed job records them as cancelled, with an unknown number of tokens.
        """
        return [r for o, r in self.running.items() if o in self._cancelled]

    def is_cancelled(self, ordinal: int) -> bool:
        """Tell whether a request was cancelled: if it is still queued, it need not be started."""
        return ordinal in self._cancelled

    def _advance(self, reply: Reply) -> list[Effect]:
        effects: list[Effect] = []
        self._waiting = None
        if self._routine is None:
            return effects
        n_commands = 0
        try:
            while (command := self._routine.send(reply)) is not None:
                if isinstance(command, Next):
                    reply = self._take(command)
                    if reply is None:
                        return effects + self._wait(command)
                    continue
                n_commands += 1
                if n_commands > MAX_COMMANDS:
                    raise StrategyError(
                        f"the strategy yielded {MAX_COMMANDS} commands without waiting "
                        "for a trace; it would never end"
                    )
                reply = self._obey(command, effects)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job continues
            self.error = describe(error)
        return effects + self._end()

    def _obey(self, command: Submit | Cancel | Drop | Note, effects: list[Effect]) -> Reply:
        if isinstance(command, Submit):
            return self._submit(command.requests, effects)
        if isinstance(command, Note):
            self._require_submitted("Note", [command.ordinal])
            self.notes.append(command)
            return None
        if isinstance(command, Drop):
            self._drop(command)
        effects += self._abort(command.ordinals, command.reason)
        return None

    def _submit(self, requests: Sequence[Request], effects: list[Effect]) -> tuple[int, ...]:
        limit = self._plan.budget.traces
        granted = requests[: max(0, limit - self._next_ordinal)] if limit else requests
        if len(granted) < len(requests):
            self._refused = True
        first = self._next_ordinal
        if first + len(granted) > MAX_REQUESTS:
            raise StrategyError(
                f"the strategy submitted more than {MAX_REQUESTS:,} requests for one problem; "
                "lower its widths, or set budget.traces"
            )
        completed = self._completed(granted, first)
        self._next_ordinal += len(completed)
        for request in completed:
            self.running[request.ordinal] = request
            effects.append(Start(request))
        return tuple(range(first, self._next_ordinal))

    def _completed(self, requests: Sequence[Request], first: int) -> list[Request]:
        completed: list[Request] = []
        previous: Request | None = None
        for ordinal, request in enumerate(requests, first):
            seed = derive_seed(self._plan.seed, self.problem.id, ordinal)
            if request is previous:  # mostly one request n times
                completed.append(changed(completed[-1], ordinal=ordinal, seed=seed))
            else:
                completed.append(self._complete(request, ordinal, seed))
            previous = request
            if suffix := completed[-1].suffix:
                self._suffixes[ordinal] = suffix
        return completed

    def _complete(self, request: Request, ordinal: int, seed: int) -> Request:
        if not isinstance(request, Request):
            raise StrategyError(f"Submit expects Requests, not {request!r}")
        model, depth = request.model, request.depth
        links: list[Trace] = []
        if request.parent is not None:
            parent = self.traces.get(request.parent)
            if parent is None or parent.finish is Finish.FAILED:
                raise StrategyError(
                    f"request {ordinal} continues trace {request.parent}, "
                    "which has not arrived or has failed"
                )
            model, depth = model or parent.model, depth if depth is not None else parent.depth
            links = lineage(parent, self.traces)
        if model and model not in self._plan.models:
            known = ", ".join(self._plan.models)
            raise StrategyError(f"request {ordinal} names model {model!r}; the plan has {known}")
        for name in ("max_new_tokens", "depth", "checkpoint"):
            value = getattr(request, name)
            if value is not None and value < 1:
                raise StrategyError(f"request {ordinal} has {name} = {value}; give at least 1")
        sampling = request.sampling or self._plan.sampling
        is_attempt = request.purpose in VOTING
        if sampling.logprobs and not is_attempt:
            sampling = changed(sampling, logprobs=False, top_logprobs=0)
        if sampling.extra and request.purpose in (Purpose.VERIFY, Purpose.COMPARE):
            sampling = _without_tools(sampling)
        limit = request.max_new_tokens
        if limit is None:  # a continuation gets the rest of its attempt's limit, at least one token
            limit = max(1, sampling.max_new_tokens - sum(len(t.token_ids) for t in links))
        at_limit = request.checkpoint is None or request.checkpoint >= limit
        metrics = self.metrics if is_attempt else ()
        ids, text = self._inherited(links)
        begins = request.purpose is Purpose.SOLVE and not (links or request.prompt)
        return changed(
            request,
            suffix=request.suffix or (sampling.prefill if begins else ""),
            ordinal=ordinal,
            seed=seed,
            prompt=request.prompt or self._prompt,
            model=model or self._plan.default_model,
            depth=depth or sampling.depth or None,
            sampling=sampling,
            max_new_tokens=limit if at_limit else request.checkpoint,
            checkpoint=None if at_limit else request.checkpoint,
            stop=(request.stop or sampling.stop) + (self._stop if is_attempt else ()),
            metrics=tuple(dict.fromkeys((*request.metrics, *metrics))),
            problem_id=self.problem.id,
            prefix_ids=ids,
            prefix_text=text,
        )

    def _inherited(self, links: Sequence[Trace]) -> tuple[tuple[int, ...], str]:
        """Return the token ids and the text of a lineage, with its forced suffixes."""
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
        running = self.running.keys()
        if running if command.among is None else not running.isdisjoint(command.among):
            self._waiting = command
            return []
        if self._refused:
            self.stopped_by = "traces"
        else:
            among = "" if command.among is None else f" among {sorted(command.among)}"
            self.error = f"StrategyError: it waits for a trace{among} while none is running"
        return self._end()

    def _drop(self, command: Drop) -> None:
        heir = () if command.heir is None else (command.heir,)
        self._require_submitted("Drop", [*command.ordinals, *heir])
        if command.heir in command.ordinals:
            raise StrategyError(f"request {command.heir} is dropped and is its own heir")
        ordinals = sorted(command.ordinals)
        self.dropped.update(dict.fromkeys(ordinals, command.heir))
        self.reasons.update(dict.fromkeys(ordinals, command.reason))

    def _require_submitted(self, name: str, ordinals: Sequence[int]) -> None:
        unknown = [o for o in ordinals if not 0 <= o < self._next_ordinal]
        if unknown:
            raise StrategyError(f"{name} names request {min(unknown)}, which was never submitted")

    def _abort(self, ordinals: frozenset[int], reason: str) -> list[Effect]:
        fresh = [o for o in self.running if o in ordinals and o not in self._cancelled]
        self._cancelled.update(fresh)
        self.reasons.update({o: reason for o in fresh if o not in self.dropped})
        return [Abort(self.running[o]) for o in fresh]

    def _end(self) -> list[Effect]:
        routine, self._routine, self._waiting = self._routine, None, None
        self._inbox.clear()
        if self._refused and not self.stopped_by:
            self.stopped_by = "traces"
        try:
            if routine is not None:
                routine.close()
        except Exception as error:  # noqa: BLE001 - a generator may refuse to close
            self.error = self.error or describe(error)
        budget = f"{self.stopped_by} ended the exploration" if self.stopped_by else ""
        return self._abort(frozenset(self.running), budget or "the strategy had ended")


def _without_tools(sampling: Sampling) -> Sampling:
    """Return the sampling of a judge, which has nothing to call."""
    extra = {name: v for name, v in sampling.extra.items() if name not in TOOL_FIELDS}
    return changed(sampling, extra=extra)
