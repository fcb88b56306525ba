"""A job's problems on one simulated clock, with a budget that they share.

The one rule: the driver's own decisions (`orchestrator.runtime.driver`) on the clock of the
simulator. At most `window` requests run at once; what is affordable, which attempt comes first and
which problem is stopped is decided by the same code as in a live job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Strategy
from orchestrator.core.session import Effect, Session, Start, prepared_prompt
from orchestrator.core.values import Finish, Trace
from orchestrator.engines.reply import trace_for
from orchestrator.plan.execution import JobBudget
from orchestrator.runtime.annotate import Classes
from orchestrator.runtime.driver.allocation.allocation import Allocation
from orchestrator.runtime.driver.allocation.allowance import N_COMPARED, Allowance
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.progress import Progress
from orchestrator.studies.replay.simulator import Clock, SimulatedRun, Tape


def explore_job(
    tapes: Sequence[Tape], strategy: Strategy, plan: Plan, job_tokens: int, window: int
) -> list[SimulatedRun]:
    """Return the explorations of the tapes' problems by a job with this many tokens for all.

    Raises ReplayError when a recording lacks a requested trace.
    """
    job = _SimulatedJob(tapes, strategy, plan, job_tokens, window)
    job.run()
    return job.runs()


class _SimulatedJob:
    def __init__(
        self, tapes: Sequence[Tape], strategy: Strategy, plan: Plan, job_tokens: int, window: int
    ) -> None:
        self._strategy, self._plan, self._window = strategy, plan, window
        self._clock = Clock(tapes)
        self._progress = Progress(n_problems=len(tapes))
        budget = JobBudget(job_tokens=job_tokens)
        allowance = Allowance(budget, window, self._progress, 0, lambda: 0.0)
        self._coming: Iterator[int] = iter(range(len(tapes)))
        self._open: dict[int, OpenProblem] = {}
        self._allocation = Allocation(allowance, self._open, lambda problem: strategy)
        self._is_over = False
        self._ended: dict[int, SimulatedRun] = {}

    def run(self) -> None:
        self._fill()
        while self._clock.n_running:
            index, trace = self._clock.next_arrival()
            self._progress.n_arrived += 1
            self._progress.output_tokens += trace.usage.output_tokens
            self._receive(index, trace)
            self._fill()

    def runs(self) -> list[SimulatedRun]:
        return [self._ended[index] for index in range(len(self._clock.tapes))]

    def _receive(self, index: int, trace: Trace) -> None:
        opened = self._open[index]
        effects = opened.session.receive(trace)
        self._allocation.receive(opened, trace)
        self._perform(index, effects)
        if index in self._open:
            self._allocation.value(opened)

    def _perform(self, index: int, effects: Sequence[Effect]) -> None:
        opened = self._open[index]
        for effect in effects:
            if isinstance(effect, Start):
                self._allocation.put(opened, effect.request)
            else:
                self._clock.perform(index, [effect])
        for request in self._allocation.waiting.withdraw_cancelled(opened):
            opened.session.receive(trace_for(request, Finish.CANCELLED))
        if not opened.session.exploring:
            self._ended.setdefault(index, SimulatedRun(opened.session, self._clock.now))
        if opened.session.done:
            del self._open[index]
            self._progress.n_done += 1

    def _fill(self) -> None:
        """Open problems, start what is affordable and stop what is not, until nothing changes."""
        while True:
            self._open_problems()
            self._start()
            self._progress.running_tokens = self._clock.running_tokens
            stopped, _ = self._allocation.to_stop(self._is_over, not self._clock.n_running)
            for opened in stopped:
                index = opened.order
                self._perform(index, opened.session.stop("job_tokens"))
            if not stopped:
                return

    def _open_problems(self) -> None:
        while len(self._open) < max(self._window, N_COMPARED):
            index = next(self._coming, None)
            if index is None:
                self._is_over = True
                return
            tape = self._clock.tapes[index]
            session = Session(tape.recorded.problem, self._strategy, self._plan)
            tape.prompt = prepared_prompt(tape.recorded.problem, self._plan)
            self._open[index] = OpenProblem(index, session, Classes(), 0.0, 0.0, 0.0)
            effects = session.start()
            self._allocation.value(self._open[index])
            self._perform(index, effects)

    def _start(self) -> None:
        waiting = self._allocation.waiting
        while waiting and self._clock.n_running < self._window and self._affords_next():
            opened, request = self._allocation.take()
            self._clock.perform(opened.order, [Start(request)])

    def _affords_next(self) -> bool:
        self._progress.running_tokens = self._clock.running_tokens
        return self._allocation.affords_next()
