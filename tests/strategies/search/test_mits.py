"""MITS: what is drawn and read, PMI by hand, the final choice, and how right it is."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import (
    Answer,
    Finish,
    Message,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Sampling,
    Trace,
)
from orchestrator.core.votes import conclude
from orchestrator.engines.fake.engine import Fake
from orchestrator.plan.execution import Execution
from orchestrator.testing import PROBLEM, explore
from strategies.search.mits import Mits, Pmi, pmis, variation
from strategies.selectors.majority import Majority

READ = "prefix_logprob"


def drawn(
    logprob: float,
    *,
    finish: Finish = Finish.RULE,
    answer: str = "",
    text: str = "step\n\n",
    entropy: float = 1.0,
) -> Trace:
    metrics = {"mean_logprob": logprob, "mean_entropy": entropy}
    return Trace(
        0, text, (1,), finish, metrics=metrics, answer=Answer(answer, answer) if answer else None
    )


def read(logprob: float) -> Trace:
    return Trace(0, "x", (1,), Finish.LENGTH, metrics={READ: logprob})


def step(
    ordinal: int, mean: float, n_tokens: int, *, parent: int | None = None, answer: str = ""
) -> Trace:
    made = drawn(mean, answer=answer)
    return replace(made, ordinal=ordinal, parent=parent, token_ids=(1,) * n_tokens)


def reading(ordinal: int, parent: int, logprob: float) -> Trace:
    return replace(read(logprob), ordinal=ordinal, parent=parent, purpose=Purpose.VERIFY)


# --- the score


def test_pmi_by_hand() -> None:
    """Steps of 4 and 2 tokens with means -.5 and -1: -2 and -2 after the question.

    Read without it -5, then -9 for both together.

    PMI 3 after one step, (-4 + 9) / 2 = 2.5 per step after two.
    """
    pool = [
        step(0, -0.5, 4),
        reading(1, 0, -5.0),
        step(2, -1.0, 2, parent=0, answer="A"),
        reading(3, 2, -9.0),
    ]
    assert pmis(pool) == {0: 3.0, 2: 2.5}


def test_a_solution_that_was_not_read_has_no_pmi_and_no_vote() -> None:
    """Nothing is made up for it: neither 0 nor the mean.

    A pool of another strategy ranks nothing, rather than a majority vote.
    """
    scored = [step(0, -0.5, 4, answer="A"), reading(1, 0, -5.0)]
    assert [
        c.answer.key for c in Pmi()([*scored, *(step(o, -0.5, 4, answer="B") for o in (2, 3, 4))])
    ] == ["A"]
    assert Pmi()([step(o, -0.5, 4, answer="B") for o in (2, 3, 4)]) == []
    orphan = [step(2, -1.0, 2, parent=0, answer="A"), reading(3, 2, -9.0)]
    assert Pmi()(orphan) == [], "its first step is not in the pool"


def solutions(*scores: tuple[str, float]) -> list[Trace]:
    pool = []
    for i, (answer, pmi) in enumerate(scores):
        pool += [step(2 * i, -1.0, 1, answer=answer), reading(2 * i + 1, 2 * i, -1.0 - pmi)]
    return pool


def test_the_final_choice_weighs_pmi_with_agreement() -> None:
    """k = 4: A 4 x 1/4 = 1; B 3 x 2/4 = 1.5; C has a share of 1/4.

    The fifth is not among the best four, or B would have 3 x 3/4.

    With k = 1 it is the best by PMI alone; with k = 5 the majority's 2.25 leads.
    """
    pool = solutions(("A", 4.0), ("B", 3.0), ("B", 2.0), ("C", 1.0), ("B", 0.5))
    ranked = Pmi(k=4)(pool)
    assert [(c.answer.key, c.count) for c in ranked] == [("B", 2), ("A", 1), ("C", 1)]
    assert [c.weight for c in ranked] == pytest.approx([1.5 - 0.25 + 1, 1.0 - 0.25 + 1, 1.0])
    assert Pmi(k=1)(pool)[0].answer.key == "A"
    assert Pmi(k=5)(pool)[0].weight == pytest.approx(3 * 3 / 5 - 0.2 + 1)


def test_negative_pmi_ranks_as_published() -> None:
    """PMI x share is the larger, the rarer an answer, where PMI is negative: -1 x 2/3 against -1.2
    x 1/3 = -.4.
    """
    ranked = Pmi(k=3)(solutions(("A", -1.0), ("A", -1.1), ("B", -1.2)))
    assert [c.answer.key for c in ranked] == ["B", "A"]


# --- how often a step is continued


@pytest.mark.parametrize(
    ("entropy", "gain", "expected"),
    [
        (1.5, 1.0, 0.0),
        (1.0, 1.0, 0.0),
        (2.25, 1.0, 0.5),
        (2.25, 2.0, 1.0),
        (5.0, 1.0, 2.0),
        (0.75, 1.0, -0.5),
        (0.0, 1.0, -2.0),
        (9.0, 0.0, 0.0),
    ],
)
def test_the_variation_by_hand(entropy: float, gain: float, expected: float) -> None:
    """Between 1 and 2 nothing; 2 gain (H - 2) / 1 above, the same below, at most 2 either way."""
    assert variation(entropy, 1.0, 2.0, gain) == pytest.approx(expected)


def test_entropy_has_a_say_after_ten_steps() -> None:
    """Of entropies 0 to 100 the percentiles are 33 and 67: 50 is continued three times, 100 (33
    above, of 34) five times, 0 once.
    """
    entropies = [float(i) for i in range(101)]
    mits = Mits()
    assert [mits.n_continuations(h, entropies) for h in (50.0, 76.0, 100.0, 24.0, 0.0, None)] == [
        3,
        4,
        5,
        2,
        1,
        3,
    ]
    assert mits.n_continuations(100.0, entropies[:9]) == 3
    assert mits.n_continuations(5.0, [1.0] * 20) == 3, (
        "entropies that are all the same tell nothing"
    )
    assert Mits(n=1).n_continuations(0.0, entropies) == 1, "never none"


# --- the search


def test_each_step_is_drawn_after_the_question_and_read_without_it() -> None:
    """Two levels of one path.

    The reading inherits both steps, has the blank question and the system message, and is no
    attempt.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return (
            read(-3.0)
            if READ in request.metrics
            else drawn(-1.0, finish=Finish.STOP if request.parent is not None else Finish.RULE)
        )

    plan = Plan(sampling=Sampling(system="Be brief."))
    session = explore(Mits(n=1, steps=3, step_tokens=9), world, plan)
    assert session.error == ""
    first, read_first, second, read_second = requests
    assert [(r.parent, r.max_new_tokens, r.purpose) for r in requests] == [
        (None, 9, Purpose.SOLVE),
        (0, 1, Purpose.VERIFY),
        (0, 9, Purpose.SOLVE),
        (2, 1, Purpose.VERIFY),
    ]
    assert (
        first.prompt
        == second.prompt
        == (Message("system", "Be brief."), Message("user", str(PROBLEM.prompt)))
    )
    assert (
        read_first.prompt
        == read_second.prompt
        == (Message("system", "Be brief."), Message("user", " "))
    )
    assert (len(read_first.prefix_ids), len(read_second.prefix_ids)) == (1, 2)


@pytest.mark.parametrize(("beam", "continued"), [(2, {1, 2}), (1, {1}), (0, {0, 1, 2})])
def test_the_beam_keeps_the_best_by_pmi(beam: int, continued: set[int]) -> None:
    """Three first steps with PMI 1, 3, 2.

    Without a beam all are continued, as in the paper's MITS-F.
    """
    parents: set[int] = set()

    def world(request: Request) -> Trace:
        if READ in request.metrics:
            return read(
                -1.0 - (1.0, 3.0, 2.0)[request.parent or 0] if request.parent in (0, 1, 2) else -1.0
            )
        parents.update(() if request.parent is None else (request.parent,))
        return drawn(-1.0, finish=Finish.RULE if request.parent is None else Finish.STOP)

    explore(Mits(n=3, beam=beam, steps=2), world)
    assert parents == continued


# --- simulated truth

WITH = {"good": 0.2, "dull": 0.8}  # how likely a step is after the question
# and without it: a dull step says nothing about this question
WITHOUT = {"good": 0.01, "dull": 0.9}


def test_it_is_as_right_as_its_closed_form_and_no_majority_vote() -> None:
    """Two steps, right when both are good. n = 3, beam 1.

    A good first step is found with 1 - .8^3 = .488 and then leads (PMI 3.0 against -.12); after it
    a good second one with .488, and one of three suffices (3.0 x 1/k against 1.44 x 2/k). So .488^2
    = .238.

    A single draw is right with .04; the vote of the same pools with .488 x P(2 or 3 of 3) = .488 x
    .104 = .05. 400 problems: standard deviation .0213; five of those, P(false alarm) < 1e-6.
    """
    n_right = n_majority = 0
    for seed in range(400):

        def world(request: Request, seed: int = seed) -> Trace:
            steps = request.prefix_text.split()
            if READ in request.metrics:
                return read(sum(math.log(WITHOUT[s]) for s in steps))
            kind = (
                "good"
                if random.Random(f"{seed} {request.ordinal}").random() < WITH["good"]
                else "dull"
            )
            last = len(steps) == 1
            answer = ("R" if [*steps, kind] == ["good", "good"] else "W") if last else ""
            return drawn(
                math.log(WITH[kind]),
                finish=Finish.STOP if last else Finish.RULE,
                answer=answer,
                text=f"{kind}\n\n",
            )

        pool = list(explore(Mits(n=3, beam=1, steps=2), world).traces.values())
        result = conclude(PROBLEM, pool, Pmi())
        n_right += result.answer is not None and result.answer.key == "R"
        n_majority += Majority()(pool)[0].answer.key == "R"
    assert n_right / 400 == pytest.approx(0.488**2, abs=5 * 0.0213)
    assert n_majority / 400 < 0.11


def test_a_job_on_the_fake_engine_reads_every_step(tmp_path: Path) -> None:
    """Readings cost one token each, on an account of their own; every solution has its PMI.

    Without a selector named, `pmi` is taken.
    """
    strategy = PluginSpec("mits", {"n": 2, "beam": 2, "steps": 3, "delimiter": " wait"})
    plan = Plan(models={"main": Model("fake")}, strategy=strategy, selector=PluginSpec("pmi"))
    [result] = orchestrator.run(
        [Problem("p", "Question?", "number")],
        plan,
        Execution(engine=PluginSpec("fake")),
        out=tmp_path,
    )
    pool = orchestrator.traces(tmp_path, "p")
    steps = [t for t in pool if t.purpose is Purpose.SOLVE]
    assert result.answer is not None
    assert set(pmis(pool)) == {t.ordinal for t in steps}
    assert result.usage["verify"].output_tokens == len(steps)


def test_an_engine_that_cannot_read_is_refused() -> None:
    """Before it starts, naming the capability and who has it."""
    assert "score" in Fake().capabilities()
    plan = Plan(strategy=PluginSpec("mits"), selector=PluginSpec("pmi"))
    with pytest.raises(PlanError, match=r"needs 'score', which engine 'openai' does not offer"):
        orchestrator.run(
            [PROBLEM],
            plan,
            Execution(
                engine=PluginSpec("openai", {"base_url": "http://127.0.0.1:1/v1", "server": "vllm"})
            ),
        )
