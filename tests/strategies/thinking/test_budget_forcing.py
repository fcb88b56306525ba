"""Budget forcing: where thinking ends, what replaces its end, and how much may be spent."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Finish, PluginSpec, Problem, Request, Trace, Usage
from orchestrator.plan.execution import Execution
from orchestrator.testing import explore, trace
from strategies.selectors.majority import Majority
from strategies.thinking.budget_forcing import BudgetForcing

END = "</think>"


def piece(
    n_tokens: int, *, stop: str = "", finish: Finish = Finish.STOP, answer: str = ""
) -> Trace:
    return Trace(
        0,
        "...",
        (1,),
        finish,
        stop=stop,
        answer=Answer(answer, answer) if answer else None,
        usage=Usage(output_tokens=n_tokens),
    )


def requests_of(
    strategy: BudgetForcing, pieces: list[Trace]
) -> list[tuple[int | None, str, int | None, bool]]:
    """The requests when the pieces come out like this.

    Parent, suffix, tokens, whether it stops at the tag.
    """
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return pieces[len(requests) - 1]

    session = explore(strategy, world)
    assert (session.error, len(requests)) == ("", len(pieces))
    return [(r.parent, r.suffix, r.max_new_tokens, r.stop == (END,)) for r in requests]


def test_the_end_of_thinking_is_ignored_as_often_as_asked_then_it_answers() -> None:
    """100 tokens in all: 30, then 70 are left after "Wait", 20 used, then 50.

    Then the tag, and 10 to answer.
    """
    done = [piece(30, stop=END), piece(20, stop=END), piece(5, stop=END), piece(3, answer="A")]
    assert requests_of(BudgetForcing(n=1, ignore=2, thinking=100, answer=10), done) == [
        (None, "", 100, True),
        (0, "Wait", 70, True),
        (1, "Wait", 50, True),
        (2, END, 10, False),
    ]


def test_thinking_that_uses_up_its_tokens_is_closed_and_told_to_answer() -> None:
    """At the first piece, and after "Wait"."""
    cut = piece(100, finish=Finish.LENGTH)
    assert requests_of(BudgetForcing(n=1, thinking=100, answer=10), [cut, piece(3)])[1] == (
        0,
        END + "\n\nFinal Answer:",
        10,
        False,
    )
    rest = [piece(60, stop=END), piece(40, finish=Finish.LENGTH), piece(3)]
    assert requests_of(BudgetForcing(n=1, thinking=100, answer=10), rest)[1:] == [
        (0, "Wait", 40, True),
        (1, END + "\n\nFinal Answer:", 10, False),
    ]


def test_without_a_token_left_nothing_is_ignored() -> None:
    """It closed its thinking with its very last token: it answers."""
    assert requests_of(BudgetForcing(n=1, thinking=100), [piece(100, stop=END), piece(3)])[1] == (
        0,
        END,
        1024,
        False,
    )


def test_a_text_that_ended_without_the_tag_has_answered() -> None:
    """Nothing is put after the end of the sequence; a failed piece is not continued either."""
    assert len(requests_of(BudgetForcing(n=1), [piece(30, answer="A")])) == 1
    assert len(requests_of(BudgetForcing(n=1), [trace(0, finish=Finish.FAILED)])) == 1


def test_more_thinking_mends_as_often_as_its_closed_form_says() -> None:
    """Thinking is right with .4 when it first closes.

    Each "Wait" mends a wrong one with .5: 1 - .6 x .5^2 = .85 after two.

    300 runs: standard deviation .0206; five of those, P(false alarm) < 1e-6. Without forcing it
    would be .4.
    """
    n_right = 0
    for seed in range(300):
        fine: dict[int, bool] = {}

        def world(request: Request, seed: int = seed, fine: dict[int, bool] = fine) -> Trace:
            rng = random.Random(f"{seed} {request.ordinal}")
            before = request.parent is not None and fine[request.parent]
            if request.suffix == END:
                return piece(3, answer="R" if before else "W")
            fine[request.ordinal] = before or rng.random() < (
                0.4 if request.parent is None else 0.5
            )
            return piece(10, stop=END)

        n_right += (
            Majority()(list(explore(BudgetForcing(n=1, ignore=2), world).traces.values()))[
                0
            ].answer.key
            == "R"
        )
    assert n_right / 300 == pytest.approx(1 - 0.6 * 0.5**2, abs=5 * math.sqrt(0.85 * 0.15 / 300))


def test_on_the_fake_engine_a_tag_is_cut_and_thinking_goes_on_without_it(tmp_path: Path) -> None:
    """ " wait" ends thinking there.

    Its token is in no trace, the continuation follows the tokens before it, and an answer comes
    out.
    """
    plan = Plan(
        strategy=PluginSpec("budget-forcing", {"n": 2, "ignore": 1, "end": " wait", "wait": " Hm"})
    )
    execution = Execution(engine=PluginSpec("fake", {"n_tokens": 12}))
    [result] = orchestrator.run([Problem("p", "1 + 1?", "number")], plan, execution, out=tmp_path)
    traces = orchestrator.traces(tmp_path, "p")
    assert len(traces) == 6
    thinking = [t for t in traces if t.stop]
    assert [t.stop for t in thinking] == [" wait"] * 4
    assert all("wait" not in t.text for t in thinking)
    assert result.answer is not None
    assert sum(c.count for c in result.clusters) == 2


def test_an_engine_that_does_not_tell_its_stop_strings_is_refused() -> None:
    """Else the forcing would be silently inactive: every trace would look as if it had answered."""
    plan = Plan(strategy=PluginSpec("budget-forcing"))
    with pytest.raises(PlanError, match="'stops'"):
        orchestrator.run(
            ["?"],
            plan,
            Execution(
                engine=PluginSpec("openai", {"base_url": "http://127.0.0.1:1/v1", "server": "vllm"})
            ),
        )
