"""Latent depth without a model: what a plan may ask for, and the fake engine's accuracy and price
by depth.
"""

from __future__ import annotations

import pytest

import orchestrator
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Finish, PluginSpec, Problem, Request, Sampling, Usage
from orchestrator.engines.fake.engine import Fake, problem_number, problem_steps
from orchestrator.plan.execution import Execution

EXECUTION = Execution(engine=PluginSpec("fake", {"steps": 4, "weights": [1, 0, 0]}))


def shallow_plan(depth: int) -> Plan:
    return Plan(
        {"main": Model("any", max_depth=8)},
        PluginSpec("consistency", {"n": 4}),
        sampling=Sampling(depth=depth),
        domain="number",
    )


def test_a_depth_beyond_the_model_is_refused_before_anything_starts() -> None:
    with pytest.raises(
        PlanError,
        match=r"sampling.depth requests latent depth 9; "
        r"the model serves 1 to 8 \(raise models.main.max_depth\)",
    ):
        orchestrator.run(["What is 1?"], shallow_plan(9), EXECUTION)


async def test_a_fake_problem_is_solved_from_the_depth_it_needs() -> None:
    """Weights 1, 0, 0: right whenever the depth suffices; below that, a guess among three, each
    time as if they weighed the same.

    Of 200 traces per problem that guess, with a third right, 40 to 95 are: 4 standard deviations of
    6.7.
    """
    backend = Fake(answers=("{hash}", "2000", "2001"), weights=(1, 0, 0), steps=4)
    async with backend.open({"main": Model("any")}) as engine:
        for id in map(str, range(12)):
            for depth in (1, 2, 4):
                made = [
                    await engine.generate(
                        Request(
                            prompt="What?", problem_id=id, ordinal=i, seed=7919 * i, depth=depth
                        )
                    )
                    for i in range(200)
                ]
                n_right = sum(t.text.endswith(f" {problem_number(id)}.") for t in made)
                assert n_right == 200 if depth >= problem_steps(id, 4) else 40 < n_right < 95
    assert {problem_steps(str(i), 4) for i in range(40)} == {1, 2, 3, 4}


async def test_depth_multiplies_layer_tokens_and_seconds() -> None:
    async with Fake(n_tokens=4, seconds_per_token=0.001).open({"main": Model("any")}) as engine:
        traces = [
            await engine.generate(
                Request(prompt="one two three", problem_id="p", ordinal=0, seed=5, depth=d)
            )
            for d in (None, 1, 3)
        ]
    assert [t.finish for t in traces] == [Finish.STOP] * 3
    assert [t.usage for t in traces] == [
        Usage(3, 0, 4, 7, 0.004),
        Usage(3, 0, 4, 7, 0.004),
        Usage(3, 0, 4, 21, 0.012),
    ]


def test_the_plans_depth_reaches_every_trace() -> None:
    [result] = orchestrator.run([Problem("p", "What is 1?", "number")], shallow_plan(8), EXECUTION)
    assert result.answer is not None
    assert result.answer.text == problem_number("p")
    assert result.usage["solve"].layer_tokens == 4 * (3 + 8) * 8
