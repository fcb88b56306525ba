"""Sessions: identity, budgets, cancellation, replay, and strategies that break the protocol."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import describe
from orchestrator.core.plan import Budget, Model, Plan, derive_seed
from orchestrator.core.session import MAX_COMMANDS, Abort, Session, Start, prepared_prompt
from orchestrator.core.steps import Note, Steps, cancel, drop, next_trace, note, sample, submit
from orchestrator.core.values import Finish, Message, Problem, Purpose, Request, Sampling, Trace
from orchestrator.testing import PROBLEM, trace
from orchestrator.testing.scripted.simulation import play, record

Explore = Callable[[Problem, random.Random], Steps]


@dataclass(frozen=True)
class Written:
    """A strategy written as a function."""

    function: Explore

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        return self.function(problem, rng)


def session(
    function: Explore,
    plan: Plan | None = None,
    problem: Problem = PROBLEM,
    metrics: tuple[str, ...] = (),
) -> Session:
    return Session(problem, Written(function), plan or Plan(), metrics)


def budget(traces: int = 0, tokens: int = 0) -> Plan:
    return Plan(budget=Budget(traces=traces, tokens=tokens))


# --- properties over random strategies and scripts


@dataclass(frozen=True)
class Rambling:
    """Acts at random and checks every reply.

    It submits, continues, cancels, and waits for any or some traces.
    """

    n_moves: int = 12

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        running: set[int] = set()
        arrived: dict[int, Trace] = {}
        for _ in range(self.n_moves):
            move = rng.randrange(4)
            if move == 0 or not running:
                parents = [o for o, t in arrived.items() if t.finish is not Finish.FAILED]
                parent = rng.choice([None, *parents])
                wanted = [Request(parent=parent, suffix=" so")] * rng.randint(1, 5)
                granted = yield from submit(wanted)
                assert len(granted) <= len(wanted)
                running.update(granted)
                if not granted:
                    return
            elif move == 1:
                yield from cancel(rng.sample(sorted(running), rng.randint(0, len(running))))
            else:
                among = (
                    None if move == 2 else rng.sample(sorted(running), rng.randint(1, len(running)))
                )
                trace = yield from next_trace(among)
                assert trace.ordinal in running
                assert among is None or trace.ordinal in among
                running.remove(trace.ordinal)
                arrived[trace.ordinal] = trace


def scripted(seed: int) -> Callable[[Request], Trace]:
    def reply(request: Request) -> Trace:
        rng = random.Random(request.seed + seed)
        finish = rng.choice(list(Finish))
        return trace(
            request.ordinal, rng.choice([None, "A", "B"]), finish=finish, tokens=rng.randint(0, 9)
        )

    return reply


plans = st.builds(budget, st.integers(0, 12), st.sampled_from([0, 0, 1, 20, 60])).flatmap(
    lambda plan: st.integers(0, 99).map(lambda seed: replace(plan, seed=seed))
)
seeds = st.integers(0, 10_000)


@settings(max_examples=150, deadline=None)
@given(plans, seeds)
def test_every_exploration_is_sound(plan: Plan, seed: int) -> None:
    """Ordinals are dense, and identity and seeds are as documented.

    Each request starts once, ends, and is aborted at most once.
    """
    recording = record(Session(PROBLEM, Rambling(), plan), scripted(seed), random.Random(seed))
    ended = recording.session
    assert ended.done
    assert ended.error == ""
    effects = [
        e for effects in (recording.first, *(s.effects for s in recording.steps)) for e in effects
    ]
    started = [e.request for e in effects if isinstance(e, Start)]
    aborted = [e.request.ordinal for e in effects if isinstance(e, Abort)]
    assert [r.ordinal for r in started] == list(range(len(started)))
    assert all(
        r.problem_id == PROBLEM.id and r.seed == derive_seed(plan.seed, PROBLEM.id, r.ordinal)
        for r in started
    )
    assert len({r.seed for r in started}) == len(started)
    assert sorted(ended.traces) == list(range(len(started)))
    assert len(aborted) == len(set(aborted))
    if plan.budget.traces:
        assert len(started) <= plan.budget.traces


@settings(max_examples=100, deadline=None)
@given(plans, seeds)
def test_once_the_token_budget_is_reached_nothing_starts_any_more(plan: Plan, seed: int) -> None:
    """Running requests are then aborted at once, and only their tokens are added."""
    recording = record(Session(PROBLEM, Rambling(), plan), scripted(seed), random.Random(seed))
    limit, spent = plan.budget.tokens, 0
    for step in recording.steps:
        assert isinstance(step.event, Trace)
        spent += step.event.usage.output_tokens
        if limit and spent >= limit:
            assert not any(isinstance(e, Start) for e in step.effects)
            assert all(cancelled for _, cancelled in step.running)


@settings(max_examples=60, deadline=None)
@given(plans, seeds, st.integers(0, 30))
def test_replaying_any_prefix_rebuilds_the_session(plan: Plan, seed: int, n: int) -> None:
    """A resumed job relies on this: the same events lead to the same state and the same effects.

    The state is which requests run, are owed or are lost.
    """
    recording = record(Session(PROBLEM, Rambling(), plan), scripted(seed), random.Random(seed))
    n = min(n, len(recording.steps))
    again = play(Session(PROBLEM, Rambling(), plan), recording.events[:n])
    assert again.first == recording.first
    assert again.steps == recording.steps[:n]
    rebuilt = again.session
    rest = [rebuilt.receive(event) for event in recording.events[n:] if isinstance(event, Trace)]
    assert [tuple(effects) for effects in rest] == [s.effects for s in recording.steps[n:]]


@settings(max_examples=60, deadline=None)
@given(plans, seeds, st.integers(0, 30))
def test_what_runs_is_either_owed_or_lost(plan: Plan, seed: int, n: int) -> None:
    """Every running request is either owed or lost, never both.

    A resumed job starts owed requests again and records lost ones as cancelled.
    """
    recording = record(Session(PROBLEM, Rambling(), plan), scripted(seed), random.Random(seed))
    rebuilt = play(Session(PROBLEM, Rambling(), plan), recording.events[:n]).session
    owed, lost = rebuilt.owed(), rebuilt.lost()
    assert sorted(r.ordinal for r in [*owed, *lost]) == sorted(rebuilt.running)
    assert all(rebuilt.is_cancelled(r.ordinal) for r in lost)
    assert not any(rebuilt.is_cancelled(r.ordinal) for r in owed)


# --- commands, one at a time


def test_next_delivers_by_arrival_and_waits_only_for_those_asked() -> None:
    """Traces that were not requested wait in order of arrival."""
    seen: list[int] = []

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * 4)
        for among in ((2,), None, None, (3,)):
            seen.append((yield from next_trace(among)).ordinal)  # noqa: PERF401 - a comprehension cannot yield

    it = session(explore)
    it.start()
    for ordinal in (1, 0, 2, 3):
        it.receive(trace(ordinal))
    assert seen == [2, 1, 0, 3]
    assert it.done


def test_a_cancelled_trace_still_arrives_as_data_and_is_charged() -> None:
    """Cancel returns at once; the trace is delivered like any other, so its tokens are counted."""
    seen: list[Trace] = []

    def explore(problem: Problem, rng: random.Random) -> Steps:
        ordinals = yield from submit([Request()] * 2)
        yield from cancel(ordinals)
        yield from cancel([*ordinals, 99])
        for _ in ordinals:
            seen.append((yield from next_trace()))  # noqa: PERF401 - a comprehension cannot yield

    it = session(explore)
    effects = it.start()
    assert [e.request.ordinal for e in effects if isinstance(e, Abort)] == [0, 1], (
        "a second Cancel aborts nothing again"
    )
    assert ([r.ordinal for r in it.lost()], it.owed()) == ([0, 1], [])
    it.receive(trace(1, finish=Finish.CANCELLED, tokens=3))
    it.receive(trace(0, "A", tokens=4))
    assert [t.account for t in seen] == [Purpose.PRUNED, Purpose.SOLVE], (
        "one ended by itself before its abort arrived"
    )
    assert it.output_tokens == 7


def test_returning_cancels_what_still_runs() -> None:
    """A strategy need not clean up: when it returns, each running request is aborted once."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * 3)
        yield from next_trace()

    it = session(explore)
    it.start()
    assert [e.request.ordinal for e in it.receive(trace(1, "A"))] == [0, 2]
    assert not it.exploring
    assert not it.done
    assert it.receive(trace(0, finish=Finish.CANCELLED)) == []
    it.receive(trace(2, finish=Finish.CANCELLED))
    assert it.done
    assert it.stopped_by == ""


def test_the_trace_budget_grants_less_and_says_so() -> None:
    """The reply tells the strategy what it was granted; the result names the budget."""
    granted: list[tuple[int, ...]] = []

    def explore(problem: Problem, rng: random.Random) -> Steps:
        for _ in range(3):
            granted.append((yield from submit([Request()] * 2)))  # noqa: PERF401 - a comprehension cannot yield

    it = session(explore, budget(traces=3))
    assert len([e for e in it.start() if isinstance(e, Start)]) == 3
    assert granted == [(0, 1), (2,), ()]
    assert it.stopped_by == "traces"


def test_waiting_for_what_the_budget_refused_ends_the_exploration_without_an_error() -> None:
    """A loop that submits and waits is simple and correct: the budget ends it."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        while True:
            yield from submit([Request()])
            yield from next_trace()

    it = record(session(explore, budget(traces=5)), lambda r: "A", None).session
    assert (len(it.traces), it.stopped_by, it.error) == (5, "traces", "")


def test_stop_ends_it_once() -> None:
    """A deadline may arrive after the end, or twice."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from sample(2)

    it = session(explore)
    it.start()
    assert [type(e) for e in it.stop("seconds")] == [Abort, Abort]
    assert it.stop("interrupt") == []
    assert it.stopped_by == "seconds"
    it.receive(trace(0))
    it.receive(trace(1))
    assert it.done


def test_a_trace_that_does_not_run_is_refused() -> None:
    """A reply to a request that was never made, or a second reply to one, must be rejected."""
    it = session(lambda p, rng: sample(1))
    it.start()
    with pytest.raises(KeyError):
        it.receive(trace(5))
    it.receive(trace(0))
    with pytest.raises(KeyError):
        it.receive(trace(0))


def test_a_request_is_filled_from_the_plan_where_the_strategy_left_it_open() -> None:
    """Values that a strategy sets are kept; all others are the plan's."""
    plan = Plan(
        models={"main": Model("m"), "big": Model("b")},
        sampling=Sampling(max_new_tokens=77, stop=("END",), system="Be brief."),
    )
    mine = Request(
        prompt="Other?",
        model="big",
        depth=3,
        max_new_tokens=5,
        stop=("X",),
        sampling=Sampling(temperature=0.1),
        metrics=("a",),
    )

    it = session(lambda p, rng: submit([Request(), mine]), plan, metrics=("b", "a"))
    first, second = (e.request for e in it.start() if isinstance(e, Start))
    assert first.prompt == (Message("system", "Be brief."), Message("user", PROBLEM.prompt))
    assert (first.model, first.depth, first.max_new_tokens, first.stop, first.sampling) == (
        "main",
        None,
        77,
        ("END",),
        plan.sampling,
    )
    assert first.metrics == ("b", "a")
    assert (second.prompt, second.model, second.depth, second.max_new_tokens, second.stop) == (
        "Other?",
        "big",
        3,
        5,
        ("X",),
    )
    assert second.sampling == mine.sampling
    assert second.metrics == ("a", "b"), "asked for twice, reported once"


def test_a_continuation_inherits_all_its_ancestors_tokens_suffixes_included() -> None:
    """The order of token ids is: the root, then each suffix before its own tokens.

    Model and depth are the parent's.
    """

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from sample(1, Request(model="big", depth=2))
        yield from sample(1, Request(parent=0, suffix=" wait"))
        yield from submit([Request(parent=1), Request(parent=0, depth=5)])

    it = session(explore, Plan(models={"main": Model("m"), "big": Model("b")}))
    it.start()
    it.receive(replace(trace(0), text="one", token_ids=(1, 2), model="big", depth=2))
    effects = it.receive(
        replace(
            trace(1), text=" two", token_ids=(5,), suffix_ids=(3, 4), parent=0, model="big", depth=2
        )
    )
    grandchild, sibling = (e.request for e in effects if isinstance(e, Start))
    assert (grandchild.prefix_ids, grandchild.prefix_text) == ((1, 2, 3, 4, 5), "one wait two")
    assert (grandchild.model, grandchild.depth) == ("big", 2)
    assert (sibling.prefix_ids, sibling.prefix_text, sibling.depth) == ((1, 2), "one", 5)


def test_a_prefill_begins_attempts_at_the_problems_own_prompt_and_nothing_else() -> None:
    """Its tokens and its text are inherited like those of any forced suffix."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from sample(1)
        yield from submit(
            [
                Request(),
                Request(parent=0),
                Request("Is it 7?", purpose=Purpose.VERIFY),
                Request("Try again: 3 + 4?"),
                Request(suffix=" So"),
            ]
        )

    it = session(explore, Plan(sampling=Sampling(prefill="Let me see.")))
    [first] = (e.request for e in it.start() if isinstance(e, Start))
    effects = it.receive(replace(trace(0), text=" 3 + 4", token_ids=(5,), suffix_ids=(1, 2)))
    others = [e.request for e in effects if isinstance(e, Start)]
    assert first.suffix == "Let me see."
    assert [r.suffix for r in others] == ["Let me see.", "", "", "", " So"]
    assert (others[1].prefix_ids, others[1].prefix_text) == ((1, 2, 5), "Let me see. 3 + 4")


def test_a_judge_has_no_tools_to_call() -> None:
    """Its reply is a verdict; and a parser would take what it quotes for calls of its own."""
    extra = {"tools": [{"type": "function"}], "tool_choice": "required", "min_tokens": 2}

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request(), Request("Is it 7?", purpose=Purpose.VERIFY)])

    of_plan = Plan(sampling=Sampling(extra=extra))
    starts = session(explore, of_plan).start()
    extras = [effect.request.sampling.extra for effect in starts if isinstance(effect, Start)]
    assert extras == [extra, {"min_tokens": 2}]


def test_an_attempt_has_one_limit_however_often_it_is_continued() -> None:
    """The limit applies to the whole attempt, not to each continuation.

    The plan's limit is 10: after 4 and 5 tokens, 6 and 1 are left; if none is left it is still 1,
    because a request needs one.
    """

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from sample(1, Request(max_new_tokens=4))
        yield from sample(1, Request(parent=0))
        yield from sample(1, Request(parent=1))
        yield from submit([Request(parent=2), Request(parent=2, max_new_tokens=7)])

    it = session(explore, Plan(sampling=Sampling(max_new_tokens=10)))
    limits = [e.request.max_new_tokens for e in it.start() if isinstance(e, Start)]
    for made in (trace(0, tokens=4), trace(1, tokens=5, parent=0), trace(2, tokens=1, parent=1)):
        limits += [e.request.max_new_tokens for e in it.receive(made) if isinstance(e, Start)]
    assert limits == [4, 6, 1, 1, 7]


def test_a_checkpoint_ends_a_stretch_and_the_attempts_limit_the_attempt() -> None:
    """A limit of 10 and a checkpoint every 6 give stretches of 6 and 4.

    The second is the end and not a checkpoint. 5 of 5 is a limit, too.
    """

    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from sample(1, Request(checkpoint=6))
        yield from submit(
            [
                Request(parent=0, checkpoint=6),
                Request(checkpoint=5, max_new_tokens=5),
                Request(checkpoint=99),
            ]
        )

    it = session(explore, Plan(sampling=Sampling(max_new_tokens=10)))
    started = [e.request for e in it.start() if isinstance(e, Start)]
    started += [
        e.request
        for e in it.receive(trace(0, tokens=6, finish=Finish.RULE))
        if isinstance(e, Start)
    ]
    assert [(r.max_new_tokens, r.checkpoint) for r in started] == [
        (6, 6),
        (4, None),
        (5, None),
        (10, None),
    ]


def test_a_plans_metrics_are_asked_of_those_that_may_vote() -> None:
    """Probes and judges only need their own metrics."""
    requests = [
        Request(purpose=p, metrics=("own",))
        for p in (Purpose.SOLVE, Purpose.AGGREGATE, Purpose.PROBE, Purpose.COMPARE)
    ]
    it = session(lambda p, rng: submit(requests), metrics=("plan",))
    assert [e.request.metrics for e in it.start() if isinstance(e, Start)] == [
        ("own", "plan")
    ] * 2 + [("own",)] * 2


def test_dropping_stops_what_runs_and_is_remembered() -> None:
    """Dropped traces have no vote, arrived or running; an heir is named once and is another one."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        ordinals = yield from submit([Request()] * 4)
        yield from next_trace()
        yield from drop(ordinals[:2])
        yield from drop([ordinals[2]], heir=ordinals[3])
        yield from next_trace([3])

    it = session(explore)
    it.start()
    effects = it.receive(trace(0, "A"))
    assert [e.request.ordinal for e in effects if isinstance(e, Abort)] == [1, 2]
    assert it.dropped == {0: None, 1: None, 2: 3}


def _drops(ordinals: list[int], heir: int | None = None) -> Explore:
    def explore(problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * 2)
        yield from drop(ordinals, heir)

    return explore


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_drops([7]), "request 7, which was never submitted"),
        (_drops([0], 9), "request 9"),
        (_drops([0, 1], 1), "its own heir"),
    ],
)
def test_a_drop_that_makes_no_sense_fails_its_problem(function: Explore, message: str) -> None:
    it = session(function)
    it.start()
    assert message in it.error


@pytest.mark.parametrize(
    ("prompt", "system", "template", "expected"),
    [
        ("Q {x}", "", "{prompt}!", "Q {x}!"),
        ("Q", "S", "{prompt}", (Message("system", "S"), Message("user", "Q"))),
        ((Message("user", "Q"),), "S", "{prompt}!", (Message("system", "S"), Message("user", "Q"))),
        (
            (Message("system", "own"), Message("user", "Q")),
            "S",
            "{prompt}",
            (Message("system", "own"), Message("user", "Q")),
        ),
    ],
)
def test_the_template_wraps_plain_prompts_only(
    prompt: Any, system: str, template: str, expected: Any
) -> None:
    """Braces in a question are kept; a chat with its own system message keeps it."""
    assert (
        prepared_prompt(
            Problem("p", prompt), Plan(sampling=Sampling(system=system, template=template))
        )
        == expected
    )


def test_rng_depends_on_run_and_problem_alone() -> None:
    """Draws are the same at every resume, and differ for another problem or seed."""
    drawn: list[float] = []

    def explore(problem: Problem, rng: random.Random) -> Steps:
        drawn.append(rng.random())
        yield from submit(())

    for seed, name in ((0, "a"), (0, "a"), (0, "b"), (1, "a")):
        session(explore, Plan(seed=seed), Problem(name, "?")).start()
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_many_deliveries_in_a_row_are_no_endless_loop() -> None:
    """Ten thousand traces may arrive while a strategy waits for the first.

    Taking them must not count as too many commands.
    """
    n = MAX_COMMANDS + 50
    it = session(lambda p, rng: sample(n))
    it.start()
    for ordinal in [*range(1, n), 0]:
        it.receive(trace(ordinal, tokens=0))
    assert it.done
    assert it.error == ""


# --- strategies that break the protocol


def _raises(problem: Problem, rng: random.Random) -> Steps:
    raise RuntimeError("at\nonce")


def _raises_later(problem: Problem, rng: random.Random) -> Steps:
    yield from submit([Request()] * 2)
    raise RuntimeError("later")


def _returns_nothing(problem: Problem, rng: random.Random) -> Any:
    submit([Request()])


def _returns_a_list(problem: Problem, rng: random.Random) -> Any:
    return [Request()]


def _yields_nonsense(problem: Problem, rng: random.Random) -> Any:
    yield Request()


def _forgets_from(problem: Problem, rng: random.Random) -> Any:
    yield submit([Request()])


def _submits_text(problem: Problem, rng: random.Random) -> Any:
    yield from submit(["What?"])  # type: ignore[list-item]  # on purpose


def _waits_for_nothing(problem: Problem, rng: random.Random) -> Steps:
    yield from next_trace()


def _waits_for_a_stranger(problem: Problem, rng: random.Random) -> Steps:
    yield from submit([Request()])
    yield from next_trace((7,))


def _never_waits(problem: Problem, rng: random.Random) -> Steps:
    while True:
        yield from cancel(())


def _asks_for_another_model(problem: Problem, rng: random.Random) -> Steps:
    yield from submit([Request(model="gpt")])


def _continues_the_unborn(problem: Problem, rng: random.Random) -> Steps:
    yield from submit([Request(), Request(parent=0)])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raises, "RuntimeError: at once"),
        (_raises_later, "RuntimeError: later"),
        (_returns_nothing, "not a generator; write `yield from`"),
        (_returns_a_list, "not a generator"),
        (_yields_nonsense, "yields Submit, Next, Cancel, Drop or Note"),
        (_forgets_from, "write `yield from`, not `yield`"),
        (_submits_text, "Submit expects Requests, not 'What\\?'"),
        (_waits_for_nothing, "waits for a trace while none is running"),
        (_waits_for_a_stranger, r"waits for a trace among \[7\] while none is running"),
        (_never_waits, "would never end"),
        (_asks_for_another_model, "model 'gpt'; the plan has main"),
        (_continues_the_unborn, "continues trace 0, which has not arrived"),
    ],
)
def test_a_broken_strategy_fails_its_problem_and_leaves_nothing_running(
    function: Explore, message: str
) -> None:
    """A plugin may do anything: its problem gets a one-line error, and the session still ends.

    Running requests are aborted.
    """
    it = session(function)
    effects = it.start()
    assert re.search(message, it.error), it.error
    assert "\n" not in it.error
    assert not it.exploring
    started = [e.request.ordinal for e in effects if isinstance(e, Start)]
    assert (
        [e.request.ordinal for e in effects if isinstance(e, Abort)] == started == list(it.running)
    )
    for ordinal in started:
        assert it.receive(trace(ordinal, finish=Finish.CANCELLED)) == []
    assert it.done


def test_a_strategy_that_raises_on_a_trace_keeps_the_traces() -> None:
    """Their tokens are spent, and they can be voted on manually."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        (only,) = yield from sample(1)
        raise ValueError(only.ordinal)

    it = record(session(explore), lambda r: "A", None).session
    assert it.error.startswith("ValueError: 0 (test_session.py:")
    assert list(it.traces) == [0]


@pytest.mark.parametrize("kind", ["raises", "yields"])
def test_a_strategy_that_refuses_to_close_is_reported_and_closed(kind: str) -> None:
    """Code in `finally` may raise or even yield; the stop still takes effect."""

    def explore(problem: Problem, rng: random.Random) -> Steps:
        try:
            yield from sample(1)
        finally:
            if kind == "raises":
                raise RuntimeError("in close")
            yield from sample(1)

    it = session(explore)
    it.start()
    assert [type(e) for e in it.stop("seconds")] == [Abort]
    assert it.error
    it.receive(trace(0))
    assert it.done


def test_an_error_is_described_in_one_line_with_its_place() -> None:
    """Log entries and table rows are single lines."""
    with pytest.raises(ValueError, match="a") as raised:
        raise ValueError("a\n\n  b")
    assert describe(raised.value).startswith("ValueError: a b (test_session.py:")
    assert describe(ValueError("x")) == "ValueError: x"


def test_a_strategy_sees_the_question_as_it_is_asked() -> None:
    """The prompt it sees must include the plan's template and system message.

    Otherwise revised answers would have another form.
    """
    seen: list[Problem] = []

    def explore(problem: Problem, rng: random.Random) -> Steps:
        seen.append(problem)
        yield from sample(1)

    it = session(explore, Plan(sampling=Sampling(system="Be brief.", template="{prompt} Box it.")))
    [effect] = it.start()
    assert (
        seen[0].prompt
        == effect.request.prompt
        == (Message("system", "Be brief."), Message("user", "What is 17 + 25? Box it."))
    )
    assert it.problem is PROBLEM


def test_a_strategy_that_submits_without_end_fails_its_problem() -> None:
    """Each request takes memory before the first is sent."""

    class Wide:
        def explore(self, problem: Problem, rng: random.Random) -> Steps:
            while True:
                yield from submit([Request()] * 60_000)

    session = Session(PROBLEM, Wide(), Plan())
    assert len([e for e in session.start() if isinstance(e, Start)]) == 60_000
    assert "more than 100,000 requests" in session.error


def _explained(problem: Problem, rng: random.Random) -> Steps:
    ordinals = yield from submit([Request()] * 4)
    yield from note(ordinals[0], "first", "cluster 1")
    yield from next_trace({ordinals[0]})
    yield from drop([ordinals[1]], reason="unlike the others")
    yield from cancel([ordinals[1], ordinals[2]], "the vote was decided")


def test_a_session_knows_why_traces_were_dropped_and_cancelled_and_what_was_noted() -> None:
    """A report shows the rule of each; replaying the journal must be enough to find it."""
    one = session(_explained)
    one.start()
    one.receive(trace(0))
    assert one.reasons == {
        1: "unlike the others",  # a dropped trace keeps the reason of its drop
        2: "the vote was decided",
        3: "the strategy had ended",
    }
    assert one.notes == [Note(0, "first", "cluster 1")]
