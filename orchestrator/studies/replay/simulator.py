"""Recorded traces in place of an engine: any strategy runs unchanged on a clock that counts tokens.

The one rule: every running trace generates one token per tick. The order of arrival, the cost of a
cancelled trace and the length of the critical path are therefore those of an engine that serves
every request at once. There is no model and no event loop, and nothing here knows a right answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.core.metrics import RuleFold
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Strategy
from orchestrator.core.session import Effect, Session, Start, prepared_prompt
from orchestrator.core.values import (
    Answer,
    ConfidenceFloor,
    Finish,
    Purpose,
    Request,
    Sampling,
    Trace,
    Usage,
    changed,
)
from orchestrator.studies.replay.recording import RecordedProblem, RecordedTrace, ReplayError

# a recorded trace ends as recorded, unless a strategy requests a checkpoint
UNLIMITED = Sampling(max_new_tokens=2**31)


class _Unrecorded(str):
    """The placeholder for a text that was not recorded; only reading it is an error."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> None:
        raise ReplayError(
            "the recording contains answers, not texts: "
            "a strategy, similarity or selector that reads texts cannot be replayed on it"
        )

    __len__ = __iter__ = __getitem__ = __contains__ = __format__ = _refuse  # type: ignore[assignment]  # it never returns
    find = count = split = splitlines = strip = lower = encode = startswith = endswith = _refuse  # type: ignore[assignment]


_NO_TEXT = _Unrecorded()


@dataclass(frozen=True, slots=True)
class Stretch:
    """The position of a request on its recorded trace.

    `index` is the index of that trace; `first` and `last` are the numbers of tokens before the
    stretch and at its end. `root` is the ordinal of the request that started the attempt. A trace
    that resampling draws twice makes two attempts.
    """

    root: int
    index: int
    first: int
    last: int


class Tape:
    """One problem's recorded traces in a given order; each fresh request gets the next one."""

    __slots__ = ("_n_drawn", "_order", "_probe_tokens", "prompt", "recorded", "stretches")

    def __init__(
        self, recorded: RecordedProblem, order: Sequence[int], probe_tokens: int = 0
    ) -> None:
        """Start at the beginning of `order`.

        A probe costs `probe_tokens`, because recordings do not report the cost of their probes.
        """
        self.recorded = recorded
        # the problem's prompt; a caller with a plan replaces it with the plan's wording
        self.prompt = recorded.problem.prompt
        self.stretches: dict[int, Stretch] = {}  # by ordinal
        self._order = order
        self._n_drawn = 0
        self._probe_tokens = probe_tokens

    def play(self, request: Request) -> Trace:
        """Return the trace with which a request ends if nothing stops it.

        Raises ReplayError when the recording does not contain it.
        """
        if request.purpose is Purpose.PROBE or (
            request.purpose is Purpose.AGGREGATE and request.parent is not None
        ):
            return self._probe(request)
        self._require_recorded(request)
        stretch = self._next_stretch(request)
        recorded = self.recorded.traces[stretch.index]
        limit = request.max_new_tokens
        end = recorded.n_tokens if limit is None else min(recorded.n_tokens, stretch.first + limit)
        finish = (
            recorded.finish
            if end == recorded.n_tokens
            else Finish.RULE
            if request.checkpoint
            else Finish.LENGTH
        )
        if request.rules:
            end, finish = self._end_by_rule(request, recorded, stretch.first, end, finish)
        if end < recorded.n_tokens and (request.metrics or request.verifiers):
            raise self._missing("no verdicts or metrics of unfinished traces")
        self.stretches[request.ordinal] = changed(stretch, last=end)
        return self._trace(request, recorded, stretch.first, end, finish)

    def cut(self, request: Request, n_tokens: int) -> Trace:
        """Return the trace of a request that was stopped after `n_tokens` tokens."""
        stretch = self.stretches.get(request.ordinal)
        if stretch is None:  # a probe
            return _finished(request, Finish.CANCELLED, min(n_tokens, self._probe_tokens), _NO_TEXT)
        end = min(stretch.first + n_tokens, stretch.last)
        self.stretches[request.ordinal] = changed(stretch, last=end)
        recorded = self.recorded.traces[stretch.index]
        return self._trace(request, recorded, stretch.first, end, Finish.CANCELLED)

    def _trace(
        self, request: Request, recorded: RecordedTrace, first: int, end: int, finish: Finish
    ) -> Trace:
        text = _NO_TEXT if recorded.text is None else _part(recorded, first, end)
        ended = end == recorded.n_tokens and finish is not Finish.CANCELLED
        answer, source = (recorded.answer, recorded) if ended else (None, _UNFINISHED)
        return _finished(request, finish, end - first, text, answer, source)

    def _next_stretch(self, request: Request) -> Stretch:
        if request.parent is None:
            if self._n_drawn == len(self._order):
                raise self._missing(
                    f"{len(self._order)} traces, and one more was requested; lower the strategy's n"
                )
            self._n_drawn += 1
            return Stretch(request.ordinal, self._order[self._n_drawn - 1], 0, 0)
        parent = self.stretches.get(request.parent)
        if parent is None:
            raise self._missing("nothing that follows a probe")
        if parent.last >= self.recorded.traces[parent.index].n_tokens:
            raise self._missing(
                f"nothing beyond the {parent.last} tokens of a trace that ended by itself"
            )
        return Stretch(parent.root, parent.index, parent.last, parent.last)

    def _probe(self, request: Request) -> Trace:
        stretch = None if request.parent is None else self.stretches.get(request.parent)
        if stretch is None:
            raise self._missing("no probe but of a running trace")
        recorded = self.recorded.traces[stretch.index]
        try:
            answer = recorded.probed(stretch.last)
        except KeyError:
            probes = (
                f"they were made at {_abbreviated(recorded.probes)} tokens"
                if recorded.probes
                else "none was made; replay a rule that does not probe (`sounding` with patience=0)"
            )
            raise self._missing(f"no probe after {stretch.last} tokens: {probes}") from None
        return _finished(request, Finish.STOP, self._probe_tokens, _NO_TEXT, answer)

    def _require_recorded(self, request: Request) -> None:
        if request.purpose is not Purpose.SOLVE:
            raise self._missing(f"attempts only, nothing for the purpose {request.purpose.value!r}")
        if request.subjects:
            raise self._missing("no attempt that goes beyond others")
        if request.prompt not in ("", self.prompt):
            raise self._missing("no attempt at another prompt than the problem's own")
        if request.suffix:
            raise self._missing(
                f"no attempt that continues after the forced text {request.suffix!r}"
            )
        if request.depth is not None:
            raise self._missing(
                f"one depth, that of its model; the strategy requests depth {request.depth}"
            )
        if request.metrics or request.verifiers:
            some = self.recorded.traces[0] if self.recorded.traces else RecordedTrace(0)
            lacking = {*request.metrics} - some.metrics.keys() | {*request.verifiers} - {
                v.verifier for v in some.verdicts
            }
            if lacking:
                raise self._missing(f"no {', '.join(sorted(lacking))}")

    def _end_by_rule(
        self, request: Request, recorded: RecordedTrace, first: int, end: int, finish: Finish
    ) -> tuple[int, Finish]:
        if any(isinstance(rule, ConfidenceFloor) for rule in request.rules):
            raise self._missing("no log-probabilities, which a confidence floor needs")
        if recorded.text is None:
            raise self._missing("no texts, which a stop rule reads")
        fold = RuleFold(request.rules)
        for n in range(first, end):
            if fold.update(_part(recorded, n, n + 1), ()):
                return n + 1, Finish.RULE
        return end, finish

    def _missing(self, what: str) -> ReplayError:
        return ReplayError(f"problem {self.recorded.problem.id}: the recording contains {what}")


_UNFINISHED = RecordedTrace(0)  # only text and tokens are known


def _finished(
    request: Request,
    finish: Finish,
    n_tokens: int,
    text: str,
    answer: Answer | None = None,
    source: RecordedTrace = _UNFINISHED,
) -> Trace:
    return Trace(
        ordinal=request.ordinal,
        text=text,
        finish=finish,
        parent=request.parent,
        purpose=request.purpose,
        model=request.model,
        usage=Usage(output_tokens=n_tokens),
        answer=answer,
        metrics=source.metrics,
        verdicts=source.verdicts,
        error=source.error,
    )


def _part(recorded: RecordedTrace, first: int, end: int) -> str:
    """Return the text of these tokens.

    Token boundaries are not recorded, so all tokens are assumed to be equally long.
    """
    text = recorded.text or ""
    n = max(1, recorded.n_tokens)
    return text[len(text) * first // n : len(text) * end // n]


def _abbreviated(probes: Iterable[int]) -> str:
    first, *rest = probes
    return f"{first}, {rest[0]}, ..." if rest else str(first)


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A finished exploration and the length of its critical path, in sequential tokens."""

    session: Session
    path_tokens: int


def explore(tape: Tape, strategy: Strategy, plan: Plan) -> SimulatedRun:
    """Return the exploration of a tape's problem by a strategy.

    Arrivals at the same tick are in the order of submission. A stopped trace arrives at the tick at
    which it was stopped. Raises ReplayError when the recording lacks a requested trace.
    """
    session = Session(tape.recorded.problem, strategy, plan)
    tape.prompt = prepared_prompt(tape.recorded.problem, plan)
    clock = Clock([tape])
    clock.perform(0, session.start())
    while session.running:
        clock.perform(0, session.receive(clock.next_arrival()[1]))
        if not session.exploring:
            break
    ended = clock.now
    while session.running:
        session.receive(clock.next_arrival()[1])
    return SimulatedRun(session, ended)


class Clock:
    """Simulated time in tokens: the running requests, with their arrival times and traces.

    A tape is named by its index.
    """

    __slots__ = ("_began", "_heap", "_n_pushed", "_traces", "_valid", "now", "tapes")

    def __init__(self, tapes: Sequence[Tape]) -> None:
        """Start at tick 0 with nothing running."""
        self.tapes = tapes
        self.now = 0
        self._heap: list[tuple[int, int, int, int]] = []
        self._traces: dict[tuple[int, int], Trace] = {}
        self._began: dict[tuple[int, int], int] = {}
        # request -> its entry in the heap; earlier entries are invalid
        self._valid: dict[tuple[int, int], int] = {}
        self._n_pushed = 0

    @property
    def n_running(self) -> int:
        """The number of running requests."""
        return len(self._valid)

    @property
    def running_tokens(self) -> int:
        """The tokens so far of the running requests."""
        return len(self._began) * self.now - sum(self._began.values())

    def perform(self, index: int, effects: Sequence[Effect]) -> None:
        """Start and stop requests of a tape now."""
        for effect in effects:
            request = effect.request
            key = (index, request.ordinal)
            if isinstance(effect, Start):
                trace = self.tapes[index].play(request)
                self._began[key] = self.now
                self._push(key, trace, self.now + trace.usage.output_tokens)
            elif key in self._valid:
                trace = self.tapes[index].cut(request, self.now - self._began[key])
                self._push(key, trace, self.now)

    def next_arrival(self) -> tuple[int, Trace]:
        """Advance to the next arrival; return the index of its tape, and its trace."""
        while True:
            self.now, entry, *key = heapq.heappop(self._heap)
            request = (key[0], key[1])
            if self._valid.get(request) == entry:
                del self._valid[request], self._began[request]
                return request[0], self._traces.pop(request)

    def _push(self, key: tuple[int, int], trace: Trace, at: int) -> None:
        self._n_pushed += 1
        self._traces[key] = trace
        self._valid[key] = self._n_pushed
        heapq.heappush(self._heap, (at, self._n_pushed, *key))
