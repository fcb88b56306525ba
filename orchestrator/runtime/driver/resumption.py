"""How a problem that an earlier run began is taken up again: its session, from the journal.

The one rule: a session is rebuilt by its journalled events alone, in their order; of a problem that
failed, without its failures, and with the verdicts of verifiers that failed, if they are there by
now (`jobs.growth.forget_failures`). Not covered: what the session still requires, which the driver
posts and performs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.values import Finish, Problem, Request, Status, Trace
from orchestrator.core.votes import VOTING
from orchestrator.jobs.growth import awaited, forget_failures
from orchestrator.jobs.journal import Arrived, Event, Journal, Stopped
from orchestrator.jobs.sessions import Explorer, request_of
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.driver.steps import Steps
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.watchdog import Overrun


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a rebuilt session still requires.

    Traces `arriving` are journalled and arrive once more; `lost` requests were cancelled and their
    traces did not arrive; `owed` ones are to be started again.
    """

    arriving: Sequence[Arrived]
    lost: Sequence[Request]
    owed: Sequence[Request]


class Resumption:
    """Takes up the problems of a journal that an earlier run has begun.

    `last` has, for some problems, how many of their last events arrive once more (`Growth.last`).
    """

    def __init__(
        self,
        journal: Journal,
        explorer: Explorer,
        steps: Steps,
        annotator: Annotator,
        progress: Progress,
        last: Mapping[str, int],
    ) -> None:
        """Read from a journal that nobody writes to while a problem is taken up."""
        self._begun = journal.unfinished(explorer.fingerprint)  # and not taken up yet
        self._journal = journal
        self._explorer = explorer
        self._steps = steps
        self._annotator = annotator
        self._progress = progress
        self._last = last
        self._again: set[tuple[str, int]] = set()  # journalled traces that arrive once more
        # problems to take up once this many of their traces are verified again
        self._held: dict[Problem, int] = {}
        self._verified = defaultdict[str, dict[int, Trace]](dict)  # by problem and ordinal

    @property
    def n_left(self) -> int:
        """The number of problems that were begun and are not taken up yet."""
        return len(self._begun)

    def has_begun(self, problem_id: str) -> bool:
        """Tell whether an earlier run has opened a problem, and this one has not."""
        return problem_id in self._begun

    def arrives_again(self, event: Event) -> bool:
        """Tell whether an event is journalled already."""
        return (
            bool(self._again)
            and isinstance(event, Arrived)
            and (event.problem_id, event.trace.ordinal) in self._again
        )

    @property
    def n_held(self) -> int:
        """The number of problems that wait for verdicts, or to be taken up with them."""
        return len(self._held)

    def hold(self, problem: Problem) -> list[tuple[Request, Trace]]:
        """Return the traces to `verify_again` before a problem is taken up, with their requests.

        Those are the traces at which a verifier failed, of a problem that failed. If there are any,
        the problem waits, and `released` returns it in the end.
        """
        is_begun = problem.id in self._begun
        if not is_begun or self._journal.conclusion(problem.id)[1] is not Status.FAILED:
            return []
        unverified: list[tuple[Request, Trace]] = []
        events, session = self._journal.events(problem.id), self._explorer.session(problem)
        with contextlib.suppress(Overrun):
            for request, trace in awaited(events, session, self._steps.watchdog.bounded):
                if self._annotator.failed_verifiers(request, trace):
                    unverified.append((request, trace))
        if unverified:
            self._held[problem] = len(unverified)
        return unverified

    async def verify_again(self, problem: Problem, request: Request, trace: Trace) -> None:
        """Verify a trace once more, for no longer than its problem may take.

        It is written when its problem is taken up.
        """
        abort, loop = self._annotator.abort, asyncio.get_running_loop()
        seconds = self._explorer.of(problem).plan.budget.seconds
        timer = loop.call_later(seconds, abort, request) if seconds else None
        try:
            verified = await self._annotator.verified_again(problem, request, trace)
        finally:
            if timer is not None:
                timer.cancel()
        n_tokens = [one.verification_usage.output_tokens for one in (trace, verified)]
        self._progress.output_tokens += n_tokens[1] - n_tokens[0]
        self._verified[problem.id][trace.ordinal] = verified
        self._held[problem] -= 1

    def released(self) -> Problem | None:
        """Return a problem that waits no more, to be taken up; None if there is none."""
        problem = next((one for one, n in self._held.items() if not n), None)
        if problem is not None:
            del self._held[problem]
        return problem

    def take_up(self, opened: OpenProblem) -> Resumed:
        """Rebuild a session from its journalled events; return what it still requires."""
        session, problem_id = opened.session, opened.session.problem.id
        self._begun.discard(problem_id)
        has_failed = self._has_failed(problem_id)
        if has_failed:
            self._forget_failures(opened)
        self._steps.start(opened)
        events = list(self._journal.events(problem_id))
        n_last = 0 if has_failed else self._last.get(problem_id, 0)
        arriving: list[Arrived] = []
        for number, event in enumerate(events, n_last - len(events)):
            if not has_failed:
                now = self._progress.outages.now()
                opened.began = min(opened.began, now - event.elapsed)
            if isinstance(event, Stopped):
                if number <= 0:  # a later one ended nothing
                    session.stop(event.reason)
                continue
            if event.trace.answer is not None:
                opened.classes.restore(event.trace.answer)
            if number < 0:
                request_of(session, event.trace)
                self._steps.receive(opened, event.trace)
            else:
                self._again.add((problem_id, event.trace.ordinal))
                arriving.append(event)
        received = session.traces.values()
        n_attempts = sum(t.purpose in VOTING and t.parent is None for t in received)
        self._steps.counting.attempts(opened, n_attempts)
        return Resumed(
            arriving, self._not_arriving(session.lost()), self._not_arriving(session.owed())
        )

    def _not_arriving(self, requests: Sequence[Request]) -> list[Request]:
        return [request for request in requests if request.identity not in self._again]

    def _forget_failures(self, opened: OpenProblem) -> None:
        problem = opened.session.problem
        old, new = (self._explorer.session(problem) for _ in range(2))
        verified, step = self._verified.pop(problem.id, {}), self._steps.watchdog.bounded
        with contextlib.suppress(Overrun):  # then it fails again, with the traces that it has
            forget_failures(self._journal, old, new, step, verified)

    def _has_failed(self, problem_id: str) -> bool:
        """Tell whether a problem failed, or would have if its run had not ended before."""
        status = self._journal.conclusion(problem_id)[1]
        if status is not None:
            return status is Status.FAILED
        events = self._journal.events(problem_id)
        traces = [event.trace for event in events if isinstance(event, Arrived)]
        return bool(traces) and all(trace.finish is Finish.FAILED for trace in traces)
