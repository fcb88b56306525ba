"""Recorded traces played on the simulated clock: what arrives when, what it costs, and what the
recording does not hold.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.protocols import Strategy
from orchestrator.core.steps import Steps, cancel, next_trace, submit
from orchestrator.core.values import (
    Answer,
    ConfidenceFloor,
    Delimiter,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Trace,
    Verdict,
    WordLimit,
)
from orchestrator.plan import registry
from orchestrator.studies.replay.experiment import Conditions, ReplaySetting, difference, play_all
from orchestrator.studies.replay.recording import (
    RecordedProblem,
    RecordedTrace,
    Recording,
    ReplayError,
    draw_order,
)
from orchestrator.studies.replay.simulator import UNLIMITED, Tape, explore

A, B = Answer("A", "A"), Answer("B", "B")
PLAN = Plan(sampling=UNLIMITED)


def recorded(*traces: RecordedTrace, id: str = "p") -> RecordedProblem:
    return RecordedProblem(Problem(id, "?"), traces, frozenset({"A"}))


THREE = recorded(
    RecordedTrace(1000, A, {500: B}), RecordedTrace(700, B, {500: B}), RecordedTrace(400, A)
)


def play(
    strategy: Strategy,
    problem: RecordedProblem = THREE,
    *,
    probe_tokens: int = 0,
    plan: Plan = PLAN,
):  # type: ignore[no-untyped-def]
    tape = Tape(problem, draw_order(len(problem.traces), "recorded", 0), probe_tokens)
    return tape, explore(tape, strategy, plan)


def loaded(name: str, **options: object) -> Strategy:
    return registry.load("strategies", PluginSpec(name, options))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Does:
    """Explores as a function says."""

    steps: Callable[[], Steps]

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from self.steps()


def test_traces_arrive_by_length_and_the_longest_is_the_critical_path() -> None:
    """1000 + 700 + 400 tokens at once: the shortest arrives first and the path is 1000 long."""
    _, explored = play(loaded("consistency", n=3))
    assert list(explored.session.traces) == [2, 1, 0]
    assert (explored.session.output_tokens, explored.path_tokens) == (2100, 1000)


def test_one_after_the_other_the_paths_add_up() -> None:
    """A wave of one: 1000, then 700, then 400 tokens; P[A leads] after A, B, A is 0.6875, so
    nothing stops it.
    """
    _, explored = play(loaded("adaptive", n=3, wave=1, growth=1.0))
    assert list(explored.session.traces) == [0, 1, 2]
    assert (explored.session.output_tokens, explored.path_tokens) == (2100, 2100)


def test_a_cancelled_trace_costs_what_it_had_made_by_then() -> None:
    """short-1@3: the trace of 400 ends it; the two others have made 400 tokens each."""
    _, explored = play(loaded("short-m@k", m=1, k=3))
    traces = explored.session.traces
    assert [traces[i].usage.output_tokens for i in (0, 1, 2)] == [400, 400, 400]
    assert [traces[i].finish for i in (0, 1, 2)] == [
        Finish.CANCELLED,
        Finish.CANCELLED,
        Finish.STOP,
    ]
    assert traces[0].account is Purpose.PRUNED
    assert explored.path_tokens == 400


def test_a_cancel_in_mid_exploration_counts_from_the_start_of_its_request() -> None:
    """Trace 1 begins at tick 400, when trace 0 is dropped, and is cancelled 600 ticks later, when
    trace 2 ends.
    """
    pool = recorded(
        RecordedTrace(5000, B),
        RecordedTrace(5000, B),
        RecordedTrace(1000, A),
        RecordedTrace(400, A),
    )

    def steps() -> Steps:
        first = yield from submit([Request(), Request(max_new_tokens=400)])
        trace = yield from next_trace()
        assert trace.ordinal == first[1]
        yield from submit([Request()])
        yield from cancel(first[:1])
        cancelled = yield from next_trace((first[0],))
        assert cancelled.usage.output_tokens == 400
        yield from next_trace()

    _, explored = play(Does(steps), pool)
    assert explored.session.error == ""
    assert explored.session.output_tokens == 400 + 400 + 1000
    assert explored.path_tokens == 1400


def test_a_checkpoint_is_continued_and_a_probe_reads_the_answer_there() -> None:
    """500 of 1000 tokens, a probe of 16 that answers B, then the rest: 1016 tokens; the attempt
    ends with A.
    """
    seen: list[Trace] = []

    def steps() -> Steps:
        [root] = yield from submit([Request(max_new_tokens=500)])
        seen.append((yield from next_trace()))
        yield from submit(
            [Request(parent=root, suffix="So:", max_new_tokens=16, purpose=Purpose.PROBE)]
        )
        seen.append((yield from next_trace()))
        yield from submit([Request(parent=root)])
        seen.append((yield from next_trace()))

    tape, explored = play(Does(steps), probe_tokens=16)
    assert explored.session.error == ""
    assert [(t.finish, t.answer, t.usage.output_tokens) for t in seen] == [
        (Finish.LENGTH, None, 500),
        (Finish.STOP, B, 16),
        (Finish.STOP, A, 500),
    ]
    assert explored.path_tokens == 1016
    assert [(s.index, s.first, s.last) for s in tape.stretches.values()] == [
        (0, 0, 500),
        (0, 500, 1000),
    ]


def test_past_its_last_probe_a_probe_reads_what_the_trace_will_state() -> None:
    """The recording probes while the model reasons; what follows is the solution being written
    down.
    """
    assert RecordedTrace(1400, A, {500: B, 1000: A}).probed(1200) == A
    with pytest.raises(KeyError):
        RecordedTrace(1400, A, {500: B, 1000: A}).probed(700)


def asked(request: Request, *, after: int | None = None) -> Does:
    """A strategy that makes one request, of a trace run so far if `after` is given."""

    def steps() -> Steps:
        if after is not None:
            yield from submit([Request(max_new_tokens=after)])
            yield from next_trace()
        yield from submit([request])
        yield from next_trace()

    return Does(steps)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (loaded("consistency", n=4), "contains 3 traces, and one more was requested"),
        (
            asked(Request(parent=0, purpose=Purpose.PROBE), after=300),
            "no probe after 300 tokens: they were made at 500 tokens",
        ),
        (asked(Request(purpose=Purpose.PROBE)), "no probe but of a running trace"),
        (
            asked(Request(parent=0, suffix="Wait"), after=500),
            "continues after the forced text 'Wait'",
        ),
        (asked(Request(parent=0), after=2000), "nothing beyond the 1000 tokens"),
        (asked(Request(depth=4)), "one depth"),
        (asked(Request(verifiers=("prm",))), "contains no prm"),
        (asked(Request(metrics=("mean_logprob",))), "contains no mean_logprob"),
        (asked(Request(purpose=Purpose.COMPARE)), "attempts only"),
        (asked(Request(subjects=(0,)), after=500), "no attempt that goes beyond others"),
        (asked(Request("Another question")), "no attempt at another prompt than the problem's own"),
        (asked(Request(rules=(WordLimit(("wait",), 3),))), "no texts, which a stop rule reads"),
        (asked(Request(rules=(ConfidenceFloor(1.0),))), "no log-probabilities"),
    ],
)
def test_what_the_recording_does_not_hold_is_an_error_that_says_so(
    strategy: Strategy, message: str
) -> None:
    with pytest.raises(ReplayError, match=r"problem p: the recording contains") as error:
        play(strategy)
    assert message in str(error.value)


def test_reading_a_text_that_was_not_recorded_is_an_error() -> None:
    """An empty text would be a judge's wrong verdict, silently."""

    def steps() -> Steps:
        yield from submit([Request()])
        trace = yield from next_trace()
        trace.text.split()

    _, explored = play(Does(steps))
    assert "the recording contains answers, not texts" in explored.session.error


def test_stop_rules_read_a_recorded_text() -> None:
    """Ten tokens for 20 characters: the second ';' is character 12 (from 1), in token 6."""
    text = "aaaaa;bbbbb;ccccccc."
    pool = recorded(RecordedTrace(10, A, text=text))

    def steps() -> Steps:
        [root] = yield from submit([Request(rules=(Delimiter(";", 2),))])
        trace = yield from next_trace()
        assert (trace.finish, trace.usage.output_tokens, trace.text) == (
            Finish.RULE,
            6,
            "aaaaa;bbbbb;",
        )
        yield from submit([Request(parent=root)])
        rest = yield from next_trace()
        assert (rest.text, rest.answer) == ("ccccccc.", A)

    _, explored = play(Does(steps), pool)
    assert explored.session.error == ""


def test_a_budget_in_tokens_ends_it_on_the_simulated_clock() -> None:
    """400 and 700 reach the budget of 1000 at tick 700; the third has made 700 tokens, too."""
    _, explored = play(
        loaded("consistency", n=3), plan=Plan(sampling=UNLIMITED, budget=Budget(tokens=1000))
    )
    assert explored.session.stopped_by == "tokens"
    assert explored.session.output_tokens == 400 + 700 + 700


def test_draws_are_a_function_of_the_seed() -> None:
    """`shuffled` is Python's own shuffle, as the recordings with probes were published; `resampled`
    may repeat.
    """
    expected = list(range(9))
    random.Random(5).shuffle(expected)
    assert list(draw_order(9, "shuffled", 5)) == expected
    assert list(draw_order(9, "recorded", 5)) == list(range(9))
    assert set(draw_order(50, "resampled", 5)[:50]) < set(range(50))


def setting(text: str, selector: str = "majority", **options: object) -> ReplaySetting:
    return ReplaySetting(PluginSpec(text, options), PluginSpec(selector))


RECORDING = Recording(
    "tiny",
    (
        recorded(*[RecordedTrace(100 * (i + 1), A if i % 3 else B) for i in range(8)], id="p0"),
        recorded(*[RecordedTrace(50 * (i + 1), B if i % 2 else A) for i in range(8)], id="p1"),
    ),
)


def test_rows_are_means_over_seeds_and_questions() -> None:
    """By hand, in the order of recording: p0 A wins 5 to 3, 3600 tokens; p1 ties 4 to 4, A has the
    lower ordinal, 1800 tokens.
    """
    [row] = play_all([RECORDING], [setting("consistency", n=8)], Conditions(draw="recorded"), 1)
    assert (row.accuracy.value, row.accuracy.n, row.tokens.value) == (1.0, 2, 2700)
    assert (row.full_tokens, row.full_accuracy, row.pruned_tokens, row.path_tokens) == (
        2700,
        1.0,
        0,
        600,
    )


def test_a_pruned_right_answer_under_a_wrong_vote_is_a_pruning_error() -> None:
    """Of lengths 100 (B), 300 (A), 500 (A) the first ends it: the vote is B, and 100 + 100 tokens
    went into attempts that held A.
    """
    pool = recorded(RecordedTrace(100, B), RecordedTrace(300, A), RecordedTrace(500, A))
    [row] = play_all(
        [Recording("r", (pool,))], [setting("short-m@k", m=1, k=3)], Conditions(draw="recorded"), 1
    )
    assert (row.accuracy.value, row.pruning_errors) == (0.0, 1.0)
    assert (row.tokens.value, row.pruned_tokens, row.full_tokens, row.full_accuracy) == (
        300,
        200,
        900,
        1.0,
    )


def test_the_same_rows_come_out_of_one_process_and_of_several() -> None:
    """Seeds are cut into pieces for the processes; the cut must not show."""
    settings = [setting("adaptive", n=8, wave=1, growth=1.0), setting("consistency", n=4)]
    alone = play_all([RECORDING], settings, Conditions(6), 1)
    assert play_all([RECORDING], settings, Conditions(6), 2) == alone
    assert play_all([RECORDING], settings, Conditions(6), 1) == alone


def test_sources_with_the_same_questions_are_paired_by_question() -> None:
    """Two models on two questions are two units, not four: the questions are what was sampled."""
    rows = play_all(
        [RECORDING, Recording("other", RECORDING.problems)],
        [setting("consistency", n=n) for n in (8, 1)],
        Conditions(4),
        1,
    )
    both = [row for row in rows if row.source == "all"]
    assert [row.accuracy.n for row in both] == [2, 2]
    assert difference(both[0], both[1]).value == pytest.approx(
        both[0].accuracy.value - both[1].accuracy.value
    )


def test_a_problem_without_a_reference_is_an_error() -> None:
    """An accuracy over the others would be taken for one over all."""
    bare = RecordedProblem(Problem("x", "?"), (RecordedTrace(1, A),), None)
    with pytest.raises(ReplayError, match="no reference answer, 'x' first"):
        play_all([Recording("r", (bare,))], [setting("consistency", n=1)], Conditions(1), 1)


def test_a_trace_drawn_twice_is_two_attempts() -> None:
    """Resampling a pool of one trace: six attempts, six times its tokens, though the path is one
    trace long.
    """
    pool = recorded(RecordedTrace(100, A))
    [row] = play_all(
        [Recording("r", (pool,))], [setting("consistency", n=6)], Conditions(2, draw="resampled"), 1
    )
    assert (row.n_attempts, row.tokens.value, row.path_tokens) == (6, 600, 100)


def test_verdicts_reach_the_selector() -> None:
    """Best of three by the recorded score: the right one, though the majority is wrong."""
    scores = {"B": 0.2, "A": 0.9}
    pool = recorded(
        *[RecordedTrace(10, Answer(k, k), verdicts=(Verdict("prm", scores[k]),)) for k in "BBA"]
    )
    settings = [
        setting("consistency", n=3),
        ReplaySetting(
            PluginSpec("consistency", {"n": 3}), PluginSpec("best", {"by": "verdict:prm"})
        ),
    ]
    majority, best = play_all([Recording("r", (pool,))], settings, Conditions(2), 1)
    assert (majority.accuracy.value, best.accuracy.value) == (0.0, 1.0)


SCORED = recorded(
    *[
        RecordedTrace(
            10, A, text="a;b;", metrics={"mean_logprob": -1.0}, verdicts=(Verdict("prm", 0.5),)
        )
        for _ in range(16)
    ]
)


@pytest.mark.parametrize(
    "asking", [Request(verifiers=("prm",)), Request(metrics=("mean_logprob",))]
)
def test_unfinished_traces_have_no_recorded_scores(asking: Request) -> None:
    """Whole traces have theirs; of a part nothing was recorded, and none given would read as a step
    that cannot be scored.
    """

    def steps(request: Request) -> Steps:
        yield from submit([request])
        trace = yield from next_trace()
        assert trace.verdicts == (Verdict("prm", 0.5),)

    assert play(Does(lambda: steps(asking)), SCORED)[1].session.error == ""
    for part in (replace(asking, max_new_tokens=5), replace(asking, rules=(Delimiter(";", 1),))):
        with pytest.raises(ReplayError, match="no verdicts or metrics of unfinished traces"):
            play(asked(part), SCORED)


@pytest.mark.parametrize("name", ["beam", "dvts", "particles"])
def test_a_search_over_steps_is_refused_rather_than_left_without_stems(name: str) -> None:
    with pytest.raises(ReplayError, match="no verdicts or metrics of unfinished traces"):
        play(loaded(name, verifier="prm", delimiter=";"), SCORED)


@pytest.mark.parametrize(
    "strategy", [loaded("revise", chains=2), loaded("ab-mcts", verifier="prm", n=16)]
)
def test_a_revision_is_no_fresh_attempt(strategy: Strategy) -> None:
    """Its prompt shows an earlier attempt, and nobody recorded what then followed."""
    with pytest.raises(ReplayError, match="no attempt that goes beyond others"):
        play(strategy, SCORED)


def test_the_problems_own_prompt_is_the_plans() -> None:
    """A strategy may give the prompt that it was given, which is in the plan's template."""

    @dataclass(frozen=True)
    class Repeats:
        def explore(self, problem: Problem, rng: random.Random) -> Steps:
            yield from submit([Request(problem.prompt)])
            yield from next_trace()

    plan = replace(
        PLAN, sampling=replace(UNLIMITED, template="Solve: {prompt}", system="Be brief.")
    )
    assert play(Repeats(), plan=plan)[1].session.error == ""


def test_a_replay_votes_as_a_live_job_does() -> None:
    """Of three prefixes alike one finishes and votes for all: A has 3 votes, B the 2 of attempts
    like none. Unpruned it were 1 to 2.
    """
    pool = recorded(*[RecordedTrace(100, A, {10: A})] * 3, *[RecordedTrace(100, B, {10: None})] * 2)
    pruning = setting("deepprune", n=5, keep="every", judge="probe", n_words=0, prefix_tokens=10)
    [row] = play_all([Recording("r", (pool,))], [pruning], Conditions(draw="recorded"), 1)
    assert (row.accuracy.value, row.pruned_tokens) == (1.0, 20)


def test_a_problem_that_lacks_what_a_selector_reads_is_left_out_of_all_rows() -> None:
    """So that rows stay comparable; one missing verdict does not end hours of replays."""
    scored = tuple(
        RecordedTrace(10, A if i else B, verdicts=(Verdict("prm", i / 4),)) for i in range(4)
    )
    whole = [recorded(*scored, id=f"p{n}") for n in range(3)]
    pool = [*whole, recorded(*[RecordedTrace(10, A)] * 4, id="bare")]
    settings = [
        setting("consistency", n=4),
        ReplaySetting(
            PluginSpec("consistency", {"n": 4}), PluginSpec("best", {"by": "verdict:prm"})
        ),
    ]
    notes: list[str] = []
    parts: list[tuple[int, int]] = []
    rows = play_all(
        [Recording("r", tuple(pool))],
        settings,
        Conditions(2),
        1,
        note=notes.append,
        progress=lambda n_done, n: parts.append((n_done, n)),
    )
    assert [row.accuracy.n for row in rows] == [3, 3]
    [note] = notes
    assert "1 of 4 problems are left out of all rows, e.g. bare: the selector failed" in note
    assert parts == [(n + 1, len(parts)) for n in range(len(parts))]
    with pytest.raises(ReplayError, match="problem bare: the selector failed"):
        play_all([Recording("r", (pool[-1],))], settings, Conditions(2), 1)


def test_sources_with_the_same_ids_and_other_questions_are_not_paired() -> None:
    """Recordings with probes have positions for ids: two exams would count as one question each."""
    other = Recording(
        "other",
        tuple(replace(p, problem=replace(p.problem, prompt="Else?")) for p in RECORDING.problems),
    )
    answers = Recording(
        "answers", tuple(replace(p, right=frozenset({"=9"})) for p in RECORDING.problems)
    )
    for different in (other, answers):
        notes: list[str] = []
        [*_, both] = play_all(
            [RECORDING, different],
            [setting("consistency", n=8)],
            Conditions(2),
            1,
            note=notes.append,
        )
        assert both.accuracy.n == 4
        assert notes == [
            "the sources use the same ids for different questions; each counts by itself"
        ]
