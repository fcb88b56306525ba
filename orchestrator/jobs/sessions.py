"""The sessions of a job's problems: how a plan explores and votes, and which request a trace is of.

The one rule: whoever rebuilds a session from a journal does it with these functions, so that it
comes out the same everywhere. Nothing is read or written here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from orchestrator.core.errors import JournalError
from orchestrator.core.plan import Plan, fingerprint, with_settings
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.session import Session
from orchestrator.core.values import Problem, Request, Result, Trace
from orchestrator.core.votes import conclude
from orchestrator.plan import registry

_MAX_SETTINGS = 1024  # settings of problems with loaded plugins


@dataclass(frozen=True, slots=True)
class Explorer:
    """A plan with its loaded strategy and selector, and the metrics that they need.

    Problems with settings of their own have explorers of their own, one for each settings; those
    used last are kept.
    """

    plan: Plan
    fingerprint: str
    strategy: Strategy
    selector: Selector
    metrics: tuple[str, ...] = ()
    _others: OrderedDict[str, Explorer] = field(
        default_factory=OrderedDict, compare=False, repr=False
    )

    def session(self, problem: Problem) -> Session:
        """Return a new session of a problem."""
        one = self.of(problem)
        return Session(problem, one.strategy, one.plan, one.metrics)

    def result(self, session: Session, seconds: float) -> Result:
        """Return the result of a session that is done."""
        one = self.of(session.problem)
        return conclude(
            session.problem,
            list(session.traces.values()),
            one.selector,
            n_planned=getattr(one.strategy, "n_planned", None),
            stopped_by=session.stopped_by,
            error=session.error,
            seconds=seconds,
            fingerprint=self.fingerprint,
            dropped=session.dropped,
        )

    def of(self, problem: Problem) -> Explorer:
        """Return the explorer of the plan that a problem has with its settings."""
        if not problem.settings:
            return self
        own = self._others.pop(problem.settings, None)
        if own is None:
            own = load_explorer(with_settings(self.plan, problem.settings))
        self._others[problem.settings] = own
        if len(self._others) > _MAX_SETTINGS:
            self._others.popitem(last=False)
        return own


def load_explorer(plan: Plan) -> Explorer:
    """Return a plan's strategy and selector with their metrics; PluginError as in `load`."""
    strategy = registry.load("strategies", plan.strategy)
    if hasattr(strategy, "fitted"):
        strategy = strategy.fitted(plan.sampling)
    selector = registry.load("selectors", plan.selector)
    metrics = (*registry.metrics(strategy), *registry.metrics(selector))
    return Explorer(plan, fingerprint(plan), strategy, selector, tuple(dict.fromkeys(metrics)))


def request_of(session: Session, trace: Trace) -> Request:
    """Return the running request that a journalled trace is of; JournalError if there is none."""
    request = session.running.get(trace.ordinal)
    if request is None:
        raise JournalError(
            f"problem {session.problem.id}: the journal has trace {trace.ordinal}, "
            "which the strategy did not start this time; it is not deterministic, or its "
            "code has changed. Continue with the old code, or choose another job directory"
        )
    return request
