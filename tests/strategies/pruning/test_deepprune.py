"""DeepPrune as a strategy: what is read, what continues, what votes. Traces in, effects out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.session import Session
from orchestrator.core.values import (
    Answer,
    Capability,
    Finish,
    Problem,
    Purpose,
    Request,
    Trace,
    WordLimit,
)
from orchestrator.core.votes import conclude, pruned, tally, voters
from orchestrator.testing import PROBLEM, explore, trace
from strategies.pruning.deepprune import DeepPrune


@dataclass(frozen=True, slots=True)
class Knows:
    """Judges by the last word of the prefixes' texts.

    Always right, because the tests' traces begin with their answer.
    """

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        yield from ()
        return [float(a.text == b.text) for a, b in pairs]


@dataclass(frozen=True, slots=True)
class Apart:
    """Finds no two alike."""

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        yield from ()
        return [0.0 for _ in pairs]


def world(finals: Sequence[str]) -> Callable[[Request], Trace]:
    """Attempt i begins with its answer as text, stops at the rule after 10 tokens, and states the
    answer when continued.
    """

    def reply(request: Request) -> Trace:
        if request.parent is None:
            return replace(
                trace(request.ordinal, None, finish=Finish.RULE), text=finals[request.ordinal]
            )
        return trace(request.ordinal, finals[request.parent], tokens=50)

    return reply


def votes(session: Session) -> dict[str, int]:
    pool = pruned(list(session.traces.values()), session.dropped)
    return {cluster.answer.text: cluster.count for cluster in tally(voters(pool))}


def continued(session: Session) -> set[int]:
    return {
        t.parent
        for t in session.traces.values()
        if t.parent is not None and t.purpose is Purpose.SOLVE
    }


def test_a_prefix_ends_at_25_reasoning_words_in_the_engine() -> None:
    session = Session(PROBLEM, DeepPrune(n=3, similarity=Knows()), Plan())
    requests = [effect.request for effect in session.start()]
    assert [rule.count for r in requests for rule in r.rules if isinstance(rule, WordLimit)] == [
        25,
        25,
        25,
    ]
    assert DeepPrune(similarity=Knows()).needs == {Capability.CONTINUE, Capability.RULES}


def test_only_the_largest_cluster_goes_on_and_votes() -> None:
    """A A B A B C: the three A's finish.

    The others' 10 tokens are charged to pruning, and they have no vote.
    """
    session = explore(DeepPrune(n=6, similarity=Knows()), world("AABABC"))
    assert continued(session) == {0, 1, 3}
    assert votes(session) == {"A": 3}
    result = conclude(
        PROBLEM,
        list(session.traces.values()),
        lambda traces: tally(voters(traces)),
        dropped=session.dropped,
    )
    assert result.usage[Purpose.PRUNED].output_tokens == 30
    assert result.usage[Purpose.SOLVE].output_tokens == 3 * 10 + 3 * 50
    assert result.dropped == {2: None, 4: None, 5: None}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=14), st.integers(0, 1000))
def test_a_judge_that_is_always_right_prunes_nothing_that_matters(
    finals: list[str], seed: int
) -> None:
    """In any order of arrival the answer is one of full sampling's most frequent ones, held by all
    its traces (K2 = 20 > 14).
    """
    session = explore(DeepPrune(n=len(finals), similarity=Knows()), world(finals), seed=seed)
    counts = Counter(finals)
    most = max(counts.values())
    if most == 1:  # no two alike: K3 = 20 of them finish, which is all
        assert votes(session) == dict(counts)
    else:
        [(answer, count)] = votes(session).items()
        assert counts[answer] == count == most


def test_at_most_k2_traces_of_the_cluster_finish_and_the_rest_is_stopped_at_once() -> None:
    """All alike, K2 = 2, 8 traces: when 4 are in, no newcomers can outnumber them.

    The 4 that still run are aborted there.
    """
    session = explore(DeepPrune(n=8, similarity=Knows(), n_finished=2), world("AAAAAAAA"))
    assert continued(session) == {0, 1}
    assert votes(session) == {"A": 2}
    assert [o for o, t in session.traces.items() if t.finish is Finish.CANCELLED] == [4, 5, 6, 7]


def test_the_largest_cluster_goes_on_before_all_prefixes_are_in() -> None:
    """4 of 6 alike: with 2 out it is decided, and continuations start while those run."""
    session = Session(PROBLEM, DeepPrune(n=6, similarity=Knows()), Plan())
    session.start()
    reply = world("AAAABB")
    effects = [session.receive(reply(session.running[ordinal])) for ordinal in range(4)]
    # 3 against 3 out: a new cluster of 3 would be younger
    assert [len(e) for e in effects] == [0, 0, 3, 1]


def test_when_all_are_single_k3_random_ones_finish() -> None:
    session = explore(DeepPrune(n=6, similarity=Apart(), n_single=2), world("ABCDEF"))
    assert len(continued(session)) == 2
    assert sum(votes(session).values()) == 2
    assert {
        continued(
            explore(
                DeepPrune(n=6, similarity=Apart(), n_single=1), world("ABCDEF"), plan=Plan(seed=s)
            )
        ).pop()
        for s in range(9)
    } > {0}


def test_a_trace_that_ended_within_its_prefix_votes_only_in_the_largest_cluster() -> None:
    """As published: 3 (B) states its answer, and B's cluster is not the largest."""

    def reply(request: Request) -> Trace:
        short = request.ordinal in (1, 3) and request.parent is None
        made = (
            world("AABB A")(request)
            if not short
            else trace(request.ordinal, "AABB"[request.ordinal])
        )
        return replace(made, text="AABBAA"[request.ordinal]) if request.parent is None else made

    session = explore(DeepPrune(n=4, similarity=Knows(), n_finished=4, when_full="leave"), reply)
    assert votes(session) == {"A": 2}
    assert continued(session) == {0}


def test_every_cluster_keeps_its_first_trace_which_votes_for_those_pruned() -> None:
    """A A B A B C: 0, 2 and 5 finish.

    1 and 3 vote A, 4 votes B, and their tokens are charged to pruning.
    """
    session = explore(DeepPrune(n=6, similarity=Knows(), keep="every"), world("AABABC"))
    assert continued(session) == {0, 2, 5}
    assert votes(session) == {"A": 3, "B": 2, "C": 1}
    assert session.dropped == {1: 0, 3: 0, 4: 2}
    assert (
        sum(
            t.account is Purpose.PRUNED
            for t in pruned(list(session.traces.values()), session.dropped)
        )
        == 3
    )


def test_prefixes_are_probed_before_they_are_compared() -> None:
    """The probe's answers cluster A A B; the probe is charged to probing, and does not vote."""

    @dataclass(frozen=True, slots=True)
    class Asks:
        probe = Request(suffix=" So", max_new_tokens=4)

        def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
            yield from ()
            return [
                None if a.key is None or b.key is None else float(a.key == b.key) for a, b in pairs
            ]

    def reply(request: Request) -> Trace:
        if request.purpose is Purpose.PROBE:
            assert request.parent is not None
            return replace(
                trace(request.ordinal, "AAB"[request.parent], tokens=4), purpose=Purpose.PROBE
            )
        return world("AAB")(request)

    session = explore(DeepPrune(n=3, similarity=Asks()), reply)
    assert [t.ordinal for t in session.traces.values() if t.purpose is Purpose.PROBE]
    assert votes(session) == {"A": 2}


def test_a_prefix_may_end_at_a_number_of_tokens() -> None:
    """A trace cut at `prefix_tokens` continues with what the plan's limit leaves.

    One cut at the plan's own limit is whole.
    """
    limits = []

    def reply(request: Request) -> Trace:
        limits.append(request.max_new_tokens)
        if request.parent is None:
            return replace(trace(request.ordinal, None, tokens=32, finish=Finish.RULE), text="A")
        return trace(request.ordinal, "A")

    explore(DeepPrune(n=2, similarity=Knows(), prefix_tokens=32, n_words=0), reply)
    assert limits == [32, 32, 480, 480]


def test_a_budget_may_end_it_between_a_prefix_and_its_continuation() -> None:
    session = explore(
        DeepPrune(n=3, similarity=Knows()), world("AAA"), plan=Plan(budget=Budget(traces=4))
    )
    assert session.stopped_by == "traces"
    assert not session.error


def test_a_similarity_that_is_only_a_name_is_an_error() -> None:
    """Built by hand, without the registry."""
    session = explore(
        DeepPrune(n=2),
        lambda request: replace(trace(request.ordinal, None, finish=Finish.RULE), text="A"),
    )
    assert "only a name" in session.error


def test_comparisons_are_capped_at_k1_a_cluster() -> None:
    """20 traces of two answers, K1 = 3: a newcomer is compared with at most 3 of each cluster."""
    n_compared: list[int] = []

    @dataclass(frozen=True, slots=True)
    class Counts:
        def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
            yield from ()
            n_compared.append(max(Counter(b.text for _, b in pairs).values()))
            return [float(a.text == b.text) for a, b in pairs]

    finals = "".join(random.Random(0).choices("AB", k=20))
    explore(DeepPrune(n=20, similarity=Counts(), n_compared=3), world(finals))
    assert max(n_compared) == 3


def test_answers_are_not_read_into_dropped_traces_that_failed() -> None:
    """A failed trace stays failed: its account and its reason are the engine's."""
    failed = trace(0, None, finish=Finish.FAILED)
    whole = Trace(1, finish=Finish.STOP, answer=Answer("A", "A"))
    assert pruned([failed, whole], {0: 1}) == [failed, whole]
