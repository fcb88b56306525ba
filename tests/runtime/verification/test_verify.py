"""Verifiers that query models, with scripted replies: their requests and their verdicts.

Expected values are computed by hand. No engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.errors import NoVerdict, PluginError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.session import Session
from orchestrator.core.values import Finish, Message, PluginSpec, Problem, Request, Trace, Verdict
from orchestrator.kit.model_verifier import conversation, preference, sigmoid, solution_steps
from orchestrator.plan import registry
from orchestrator.runtime.verify import VerifierStrategy
from orchestrator.testing.scripted.pools import PROBLEM, trace
from orchestrator.testing.scripted.simulation import record
from verifiers.models.generative_reward import GenerativeReward
from verifiers.models.llm_judge import LlmJudge
from verifiers.models.process_evaluator import ProcessEvaluator
from verifiers.models.reward import ProcessReward, Reward

POOLS = {name: Model("any") for name in ("main", "rm")}


def run_verifier(
    verifier: Any, reply: Callable[[Request], Trace], text: str = "Two.\n\nFour."
) -> tuple[Verdict | str, list[Request]]:
    """Return the verdict, or the reason for its absence, and the requests in order."""
    requests: list[Request] = []

    def recorded(request: Request) -> Trace:
        requests.append(request)
        return reply(request)

    strategy = VerifierStrategy(verifier, Trace(3, text))
    session = Session(PROBLEM, strategy, Plan(models=POOLS))
    record(session, recorded, None)
    assert not session.error
    return strategy.verdict or strategy.reason, sorted(requests, key=lambda r: r.ordinal)


def values(*numbers: float) -> Callable[[Request], Trace]:
    return lambda request: Trace(request.ordinal, values=numbers)


def texts(*replies: str) -> Callable[[Request], Trace]:
    return lambda request: Trace(request.ordinal, replies[request.ordinal])


def failed(request: Request) -> Trace:
    return trace(request.ordinal, finish=Finish.FAILED)


def score(verdict: Verdict | str) -> float:
    assert isinstance(verdict, Verdict), verdict
    return verdict.score


def test_a_reward_is_the_sigmoid_of_the_raw_value_or_the_value_itself() -> None:
    """1 / (1 + e^-2) = .8808; a probability is used unchanged; out of range there is no verdict."""
    verdict, [request] = run_verifier(Reward(model="rm"), values(2.0))
    assert score(verdict) == pytest.approx(0.880797)
    assert request.model == "rm"
    assert request.prompt == (
        Message("user", PROBLEM.prompt),
        Message("assistant", "Two.\n\nFour."),
    )  # type: ignore[arg-type]  # a text
    assert score(run_verifier(Reward("rm", "probability"), values(0.25))[0]) == 0.25
    assert "is not a probability" in str(run_verifier(Reward("rm", "probability"), values(1.25))[0])


def test_a_reward_model_sees_what_follows_the_reasoning() -> None:
    """Reward models were trained on answers, not on reasoning.

    Without text after the reasoning, they see the text so far.
    """
    for text, seen in (("<think>Hm.</think>\nIt is 4.", "It is 4."), ("<think>Hm", "<think>Hm")):
        _, [request] = run_verifier(Reward("rm"), values(0.0), text)
        assert request.prompt[-1] == Message("assistant", seen)
    assert "no text" in str(run_verifier(Reward("rm"), values(0.0), " \n")[0])


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("min", 0.5), ("last", 0.75), ("mean", (0.5 + 0.9 + 0.75) / 3), ("product", 0.5 * 0.9 * 0.75)],
)
def test_a_process_reward_joins_the_scores_of_its_steps(aggregate: Any, expected: float) -> None:
    """Each step ends with one tag, and blank steps have none.

    Logits 0, ln 9 and ln 3 are the probabilities .5, .9 and .75.
    """
    verdict, [request] = run_verifier(
        ProcessReward("rm", aggregate),
        values(0.0, math.log(9), math.log(3)),
        "One\n\n\n\n Two\n\nThree",
    )
    assert score(verdict) == pytest.approx(expected)
    assert isinstance(verdict, Verdict)
    assert verdict.steps == pytest.approx((0.5, 0.9, 0.75))
    assert (request.read_at, request.prompt[-1]) == (
        "<extra_0>",
        Message("assistant", "One<extra_0>Two<extra_0>Three<extra_0>"),
    )


def test_a_process_reward_says_so_when_steps_and_values_differ() -> None:
    """A mismatch would assign scores to the wrong steps.

    It occurs if a solution contains the tag itself, or the model has another tag.
    """
    outcome, *_ = run_verifier(ProcessReward("rm"), values(0.0), "One<extra_0>")
    assert "itself contains" in str(outcome)
    assert "1 values for 2 steps" in str(run_verifier(ProcessReward("rm"), values(0.0))[0])


def test_a_generative_reward_is_the_mean_of_the_scores_that_were_stated() -> None:
    """A reply without a score is left out, never read as 0.

    Scores 10, 1 and 4 of 10 are 1, 0 and 1/3.
    """
    verdict, requests = run_verifier(
        GenerativeReward(k=4), texts("Score: 10/10", "So so.", "Score: 1", "Score: 4/10")
    )
    assert score(verdict) == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert isinstance(verdict, Verdict)
    assert verdict.note == "3 of 4 scores could be read"
    assert len({r.seed for r in requests}) == 4
    assert "Four." in str(requests[0].prompt)
    assert "none of 2 samples" in str(run_verifier(GenerativeReward(k=2), texts("Hm.", "Hm."))[0])


def test_a_meta_reward_keeps_the_better_half_of_the_critiques() -> None:
    """The better half is the second critique and, of equals, the first: (0 + 2/3) / 2.

    The critiques score 10, 1, 7, 4 and are rated 0, 3, 1, 1.
    """
    said = ("Score: 10/10", "Score: 1/10", "Score: 7/10", "Score: 4/10")
    meta = (0.0, 3.0, 1.0, 1.0)

    def reply(request: Request) -> Trace:
        i = request.ordinal
        return Trace(i, said[i]) if i < 4 else Trace(i, values=(meta[i - 4],))

    verdict, requests = run_verifier(GenerativeReward(k=4, meta="rm"), reply)
    assert score(verdict) == pytest.approx((0 + 2 / 3) / 2)
    assert [r.model for r in requests] == ["main"] * 4 + ["rm"] * 4
    assert [r.prompt[-1] for r in requests[4:]] == [Message("assistant", text) for text in said]
    kept = GenerativeReward(k=4, meta="rm", kept=1)
    assert score(run_verifier(kept, reply)[0]) == 0.0
    lost = lambda r: failed(r) if r.ordinal == 5 else reply(r)  # noqa: E731 - the second critique cannot be valued
    assert score(run_verifier(kept, lost)[0]) == pytest.approx(2 / 3)


def test_a_judge_of_one_token_shares_the_probability_of_its_two_words() -> None:
    """P(Yes) = .6 and P(No) = .2 give .75.

    A word that is not among the twenty most likely counts as 0; with neither there is no verdict.
    """
    metrics = {"first_token_logprob@Yes": math.log(0.6), "first_token_logprob@No": math.log(0.2)}
    verdict, [request] = run_verifier(
        LlmJudge(), lambda r: Trace(r.ordinal, "Yes", metrics=metrics)
    )
    assert score(verdict) == pytest.approx(0.75)
    assert request.max_new_tokens == 1
    assert set(request.metrics) == set(metrics)
    assert (
        score(
            run_verifier(
                LlmJudge(),
                lambda r: Trace(r.ordinal, "No", metrics={"first_token_logprob@No": -0.1}),
            )[0]
        )
        == 0.0
    )
    assert "neither 'Yes' nor 'No'" in str(
        run_verifier(LlmJudge(), lambda r: Trace(r.ordinal, "Hm"))[0]
    )


def test_a_process_evaluator_takes_the_mean_of_its_steps_and_of_the_whole() -> None:
    """Steps .9 and .5, whole .3: (mean .7 + .3) / 2 = .5, with min (.5 + .3) / 2 = .4.

    It thinks first, then decides in one token.
    """
    shares = (0.9, 0.5, 0.3)

    def reply(request: Request) -> Trace:
        if request.parent is None:
            return Trace(request.ordinal, "<think>Let me see", finish=Finish.LENGTH)
        p = shares[request.parent]
        return Trace(
            request.ordinal,
            "Yes",
            metrics={
                f"first_token_logprob@{w}": math.log(x) for w, x in (("Yes", p), ("No", 1 - p))
            },
        )

    verdict, requests = run_verifier(ProcessEvaluator(), reply)
    assert score(verdict) == pytest.approx(0.5)
    assert isinstance(verdict, Verdict)
    assert verdict.steps == pytest.approx((0.9, 0.5))
    assert score(run_verifier(ProcessEvaluator(aggregate="min"), reply)[0]) == pytest.approx(0.4)
    assert ["Four." in str(r.prompt) for r in requests[:3]] == [False, True, True]
    for thought, decision in zip(requests[:3], requests[3:], strict=True):
        assert (decision.parent, decision.prompt, decision.max_new_tokens) == (
            thought.ordinal,
            thought.prompt,
            1,
        )
        assert decision.suffix.startswith("\n</think>\n\n")


def test_a_process_evaluator_can_take_the_verdicts_that_are_stated() -> None:
    """Steps right and wrong, and the whole right, give (.5 + 1) / 2.

    If one reply has no verdict there is none, because a step would be missing.
    """
    stated = ProcessEvaluator(stated=True)
    assert (
        score(
            run_verifier(
                stated, texts("Verdict: correct", "Verdict: incorrect", "Verdict: correct")
            )[0]
        )
        == 0.75
    )
    assert "1 of 3 judgements cannot be read" in str(
        run_verifier(stated, texts("Verdict: correct", "Hm.", "Verdict: correct"))[0]
    )


@pytest.mark.parametrize(
    "verifier",
    [
        Reward("rm"),
        ProcessReward("rm"),
        GenerativeReward(k=2),
        LlmJudge(),
        ProcessEvaluator(),
        ProcessEvaluator(stated=True),
    ],
)
def test_a_failed_request_is_no_verdict(verifier: Any) -> None:
    """It is neither 0 nor one half: both would rank a solution that was not judged."""
    outcome, _ = run_verifier(verifier, failed)
    assert outcome == "a request failed: failed on purpose"


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("process-reward", {"model": "rm", "tag": ""}, "tag = ''"),
        ("process-reward", {"model": "rm", "delimiter": ""}, "delimiter = ''"),
        ("generative-reward", {"k": 0}, "k = 0: .*at least 1"),
        ("generative-reward", {"k": 2, "kept": 3, "meta": "rm"}, "at most all"),
        ("generative-reward", {"kept": 1}, "set a pool `meta`"),
        ("generative-reward", {"temperature": 0.0}, "above 0 unless k = 1"),
        ("generative-reward", {"temperature": -1.0}, "temperature = -1.0"),
        ("generative-reward", {"max_new_tokens": 0}, "max_new_tokens = 0"),
        ("generative-reward", {"template": "Well?"}, "template = 'Well.'.*solution"),
        ("llm-judge", {"yes": "No"}, "two different, non-empty words"),
        ("llm-judge", {"template": "Well?"}, "template = 'Well.'.*solution"),
        ("process-evaluator", {"yes": " "}, "two different, non-empty words"),
        ("process-evaluator", {"delimiter": ""}, "delimiter = ''"),
        ("process-evaluator", {"max_new_tokens": 0}, "max_new_tokens = 0"),
    ],
)
def test_an_option_that_cannot_work_is_refused(
    name: str, options: dict[str, object], fault: str
) -> None:
    """The message names the option and the remedy."""
    with pytest.raises(PluginError, match=fault):
        registry.load("verifiers", PluginSpec(name, options))


def test_what_verifiers_share() -> None:
    """The sigmoid is stable at both ends, and a chat keeps its own system message.

    A text that contains only delimiters has no step.
    """
    assert [sigmoid(x) for x in (-1000.0, 0.0, 1000.0)] == [0.0, 0.5, 1.0]
    assert preference({}, "Yes", "No") is None
    chat = (Message("system", "Be brief."), Message("user", "Well?"))
    assert conversation(replace(PROBLEM, prompt=chat), "So.", "Be long.") == (
        *chat,
        Message("assistant", "So."),
    )
    assert conversation(Problem("p", "Well?"), "So.", "Be long.")[0] == Message(
        "system", "Be long."
    )
    with pytest.raises(NoVerdict, match="no step"):
        solution_steps("..", ".")
