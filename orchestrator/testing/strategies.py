"""The contract of strategies: they end, keep to their budget, clean up, and are pure.

Pure: a function of (problem, rng, traces). Not detected: a read of the clock, a file or the
environment that does not change the strategy's behaviour between two runs.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.protocols import Strategy
from orchestrator.core.session import Abort, Session
from orchestrator.core.values import (
    Capability,
    Finish,
    Purpose,
    Request,
    Sampling,
    Trace,
)
from orchestrator.plan import registry
from orchestrator.testing.rules import (
    check_needs,
    check_value,
    metric_value,
    no_global_randomness,
    require,
    salted,
)
from orchestrator.testing.scripted.pools import PROBLEM, trace
from orchestrator.testing.scripted.simulation import (
    INTERRUPT,
    PURE,
    Simulation,
    Step,
    arrival,
    play,
    record,
    step,
)

World = Callable[[Request], Trace]
_JUDGE_REPLIES = {  # replies of judges, in the forms of `kit.verdicts`
    Purpose.VERIFY: (
        "Verdict: correct",
        "Verdict: correct",
        "Verdict: incorrect",
        "Score: 7/10",
        "I am not sure.",
    ),
    Purpose.COMPARE: ("Winner: 1", "Winner: 2", "Winner: tie", "I am not sure."),
}
# traces after which an exploration is stopped: without a budget, as a user would; with one, because
# it hangs
_N_LIMIT = 2_000
_N_TOKENS = 60  # of an attempt at most: several stretches if there are checkpoints
_N_STOPS = 16  # points of one exploration at which it is stopped


def check_strategy(
    strategy: Strategy, *, plan: Plan | None = None, seeds: Iterable[int] = range(2)
) -> None:
    """Check the contract of a strategy: any order of arrival, any failure, any stop, and replay.

    Each world of traces is explored without a budget and with budgets that change the exploration.
    Pass `plan` if the strategy names models; its budget is varied. Each seed gives another order of
    arrival.
    """
    check_value(strategy)
    plan = plan or Plan(sampling=Sampling(max_new_tokens=_N_TOKENS))
    with no_global_randomness():
        for seed in seeds:
            for name, world in _worlds(seed, registry.verdicts(strategy)).items():
                where = f"with traces {name}, seed {seed}"
                free = replace(plan, budget=Budget())
                whole = _check_budget(strategy, free, world, where, seed)
                for budget in _boundaries(whole):
                    limited = replace(plan, budget=budget)
                    _check_budget(strategy, limited, world, f"{where}, {budget}", seed)
                _check_stops(strategy, free, world, where, whole)
            _check_sharing(strategy, plan, seed)


def _worlds(seed: int, verifiers: Sequence[str] = ()) -> dict[str, World]:
    """Sets of possible replies ("worlds"), each a function of the request alone.

    `verifiers` score every trace, like those of a plan.
    """

    def world(words: Sequence[str], finishes: Sequence[Finish] = (Finish.STOP,)) -> World:
        def reply(request: Request) -> Trace:
            rng = random.Random(request.seed + seed)
            word, finish = rng.choice(words), rng.choice(finishes)
            if finish is Finish.RULE and not (request.rules or request.checkpoint):
                finish = Finish.STOP  # there is no text on which a rule could fire
            is_verdict = request.purpose in _JUDGE_REPLIES
            names = dict.fromkeys((*request.verifiers, *verifiers))
            scored = () if is_verdict or finish is Finish.FAILED else names
            raw = trace(
                request.ordinal,
                None if is_verdict else word or None,
                finish=finish,
                tokens=_n_tokens(request, finish, rng),
                metrics={name: metric_value(name, rng.random()) for name in request.metrics},
                verdicts={name: rng.random() for name in scored},
            )
            if finish is Finish.FAILED:
                return raw
            if is_verdict:
                return replace(raw, text=rng.choice(_JUDGE_REPLIES[request.purpose]))
            if request.stop and finish is Finish.STOP and rng.random() < 0.5:
                raw = replace(raw, stop=request.stop[0])
            return salted(raw, 0)

        return reply

    return {
        "that agree": world(["A"]),
        "of two answers": world(["A", "A", "B"]),
        "of many answers": world(
            [*"ABCDEFGH", ""], [*[Finish.STOP] * 6, Finish.LENGTH, Finish.FAILED]
        ),
        "that abstain": world([""]),
        "cut at their limit": world(["A", ""], [Finish.LENGTH]),
        "ended by a rule": world(["A", ""], [Finish.RULE]),
        "that all fail": world([""], [Finish.FAILED]),
        "cancelled from outside": world(
            ["A", ""], [Finish.CANCELLED, Finish.CANCELLED, Finish.STOP]
        ),
    }


def _n_tokens(request: Request, finish: Finish, rng: random.Random) -> int:
    if finish is Finish.RULE and request.checkpoint:
        return request.checkpoint
    n = 0 if finish is Finish.FAILED else rng.randint(1, 20)
    return n if request.max_new_tokens is None else min(n, request.max_new_tokens)


def _session(strategy: Strategy, plan: Plan) -> Session:
    return Session(PROBLEM, strategy, plan, registry.metrics(strategy))


def _copy(strategy: Strategy) -> Strategy:
    return pickle.loads(pickle.dumps(strategy))  # type: ignore[no-any-return]  # a copy of what went in


def _boundaries(whole: Simulation) -> list[Budget]:
    """Return budgets that change the exploration `whole`, which had none.

    They are: one trace; one trace too few for the first command, and for the last request; the
    tokens of one trace; half of all tokens; and both kinds together.
    """
    n_first, n_all = len(whole.first), len(whole.requests)
    n_tokens = sum(t.usage.output_tokens for t in whole.session.traces.values())
    traces = sorted({1, n_first - 1, n_all - 1} & set(range(1, _N_LIMIT)))
    tokens = sorted({1, n_tokens // 2} - {0})
    both = Budget(traces=max(1, n_all // 2), tokens=max(1, n_tokens // 4))
    return [*(Budget(traces=n) for n in traces), *(Budget(tokens=n) for n in tokens), both]


def _check_budget(
    strategy: Strategy, plan: Plan, world: World, where: str, seed: int
) -> Simulation:
    """Explore, check the behaviour, and check that replayed events give the same effects."""
    recording = record(_session(strategy, plan), world, random.Random(seed), _N_LIMIT)
    _check_conduct(strategy, recording, plan, where)
    for salt in (1, 2) if plan.budget == Budget() else (0,):
        events = [e if isinstance(e, str) else salted(e, salt) for e in recording.events]
        again = play(_session(_copy(strategy), plan), events)
        _check_same(recording, again, where)
        dropped = (recording.session.dropped, again.session.dropped)
        require(
            dropped[0] == dropped[1],
            "deterministic",
            f"{where} it dropped {dropped[0]}, and {dropped[1]} the second time; {PURE}",
        )
    return recording


def _check_conduct(strategy: Strategy, recording: Simulation, plan: Plan, where: str) -> None:
    session, budget = recording.session, plan.budget
    require(
        not session.error,
        "raises nothing",
        f"{where} it raised or broke the protocol: {session.error}",
    )
    if budget.traces or budget.tokens:
        require(
            session.stopped_by != INTERRUPT,
            "ends",
            f"{where} it still requested traces after {_N_LIMIT}; "
            "failed traces spend no tokens: bound retries",
        )
    requests = recording.requests
    if budget.traces:
        require(
            len(requests) <= budget.traces,
            "keeps its budget",
            f"{where} it started {len(requests)} traces",
        )
    n_planned = getattr(strategy, "n_planned", None)
    if n_planned is not None and session.stopped_by != INTERRUPT:
        n_attempts = sum(r.parent is None and r.purpose is Purpose.SOLVE for r in requests)
        require(
            n_attempts <= n_planned,
            "n_planned",
            f"{where} it started {n_attempts} attempts and has n_planned = {n_planned}; "
            "correct one of them",
        )
    implied = {Capability.LOGPROBS} if registry.metrics(strategy) else set()  # as at plan time
    check_needs(registry.needs(strategy) | implied, requests)


def _check_same(one: Simulation, other: Simulation, where: str) -> None:
    require(
        one.first == other.first,
        "deterministic",
        f"{where} it began differently the second time; {PURE}",
    )
    _check_same_steps(one.steps, other.steps, where)


def _check_same_steps(one: Sequence[Step], other: Sequence[Step], where: str) -> None:
    for i, (a, b) in enumerate(zip_longest(one, other)):
        require(
            a is not None and b is not None and (a.effects, a.running) == (b.effects, b.running),
            "deterministic",
            f"{where} it acted differently after the same {i + 1} events; {PURE}",
        )


def _check_stops(
    strategy: Strategy, plan: Plan, world: World, where: str, whole: Simulation
) -> None:
    """Stop an exploration right after it acted: nothing may raise, start or be left running."""
    events = [event for event in whole.events if event != INTERRUPT]
    acted = [n for n, done in enumerate(whole.steps[: len(events)], 1) if done.effects]
    chosen = {acted[i * len(acted) // _N_STOPS] for i in range(_N_STOPS)} if acted else set()
    for n in sorted({0, len(events) // 2, len(events), *chosen}):
        session = _session(strategy, plan)
        play(session, events[:n])
        before = set(session.running)
        aborted = {o for o in before if session.is_cancelled(o)}
        aborted |= {e.request.ordinal for e in session.stop("seconds") if isinstance(e, Abort)}
        require(
            not session.error,
            "stops anywhere",
            f"{where}, stopped after {n} traces, it raised: {session.error}",
        )
        require(
            aborted == set(session.running) == before,
            "stops anywhere",
            f"{where}, stopped after {n} traces, it left some running",
        )
        for ordinal in sorted(session.running):
            late = step(session, arrival(session, ordinal, world))
            require(
                not late.effects,
                "stops anywhere",
                f"{where}, stopped after {n} traces, it continued: {late.effects}",
            )


def _check_sharing(strategy: Strategy, plan: Plan, seed: int) -> None:
    """Explore two problems alternately with one strategy: each must run as it does alone."""
    world = _worlds(seed, registry.verdicts(strategy))["of two answers"]
    alone = [
        record(_session(_copy(strategy), plan), world, random.Random(seed + i), _N_LIMIT)
        for i in range(2)
    ]
    sessions = [_session(strategy, plan) for _ in alone]
    for session in sessions:
        session.start()
    together: list[list[Step]] = [[], []]
    for events in zip_longest(*(recording.events for recording in alone)):
        for i, event in enumerate(events):
            if event is not None:
                together[i].append(step(sessions[i], event))
    for recording, steps in zip(alone, together, strict=True):
        _check_same_steps(recording.steps, steps, "while another problem was explored")
