"""Where a step of the engine ends: how many iterations it has, and which engines end them early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.layers import parse_schedule
from orchestrator.engines.vllm.depth import has_spans
from orchestrator.engines.vllm.latent.batch import LatentBatch
from orchestrator.engines.vllm.latent.spans.length import step_length
from orchestrator.engines.vllm.options import Vllm
from orchestrator.plan.looped import Draft, Latent


@pytest.mark.parametrize(
    ("n_outside", "n_think", "length"),
    [(28, 10, 4), (8, 24, 2), (0, 10, 1), (280, 10, 8)],
)
def test_the_more_layers_iterate_the_shorter_a_step(
    n_outside: int, n_think: int, length: int
) -> None:
    """Tokens of depth 1, 2, 4 and 8 take 15 steps of 1 iteration, 8 of 2, 5 of 4, 4 of 8. With 28
    layers around a block of 10 they call 570, 384, 340 and 432 layers; with 8 around 24: 480, 448,
    520 and 800.
    """
    assert step_length([1, 2, 4, 8], [1, 2, 4, 8], n_outside, n_think) == length


depths = st.lists(st.integers(1, 64), min_size=1)


@given(depths, depths, st.floats(0, 1000), st.integers(1, 64))
def test_at_least_one_request_ends_in_every_step(
    remaining: list[int], waiting: list[int], n_outside: float, n_think: int
) -> None:
    """Otherwise a step would sample nothing."""
    assert step_length(remaining, waiting, n_outside, n_think) >= min(remaining)


def test_requests_alike_run_to_the_end() -> None:
    """Nobody would fill the places of those that stop: two steps of four iterations call the other
    layers twice.
    """
    assert step_length([8] * 16, [8] * 4, 28, 10) == 8


LOOP = Latent("any", parse_schedule("0 (1-2)*r 3"), max_depth=8)


@pytest.mark.parametrize(
    ("latent", "options", "on_cpu", "has"),
    [
        (LOOP, {}, True, True),
        (LOOP, {}, False, False),
        (LOOP, {"tensor_parallel": 2}, True, False),
        (Latent("any", LOOP.schedule, max_depth=8, exit="state<0.1"), {}, True, False),
        (Latent("any", LOOP.schedule, max_depth=8, draft=Draft(1, 2, 8)), {}, True, False),
        (Latent("any", LOOP.schedule, max_depth=8, damped=True, residual=0.5), {}, True, True),
        (Latent("any", LOOP.schedule), {}, True, False),
        (Latent("any", parse_schedule("0 1 1 3")), {}, True, False),
    ],
)
def test_steps_end_between_iterations_where_that_is_known_to_work(
    latent: Latent, options: dict[str, int], on_cpu: bool, has: bool
) -> None:
    """On a CPU, in loops whose iterations the scheduler knows beforehand."""
    assert has_spans(Vllm(**options), latent, on_cpu=on_cpu) is has  # type: ignore[arg-type]  # by name


def test_some_requests_of_a_batch_are_a_batch() -> None:
    """Their tokens follow each other; what a request has comes along."""
    batch = LatentBatch((1, 8, 2), (0, 3, 4, 9), ("a", "b", "c"), (), ((0, 1), (4, 8), (0, 2)))
    assert batch.selected((0, 2)) == LatentBatch(
        (1, 2), (0, 3, 8), ("a", "c"), (), ((0, 1), (0, 2))
    )
