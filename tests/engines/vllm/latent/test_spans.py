"""Where a step of the engine ends: how many iterations it has, and which engines end them early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.layers import parse_schedule
from orchestrator.engines.vllm.latent.batch import LatentBatch
from orchestrator.engines.vllm.latent.spans.length import step_length
from orchestrator.engines.vllm.options import Vllm
from orchestrator.engines.vllm.start.spans import has_spans
from orchestrator.plan.looped import Draft, Latent

FOUR_OF_EACH = [1] * 4 + [2] * 4 + [4] * 4 + [8] * 4


@pytest.mark.parametrize(
    ("n_outside", "n_think", "length"),
    [(28, 10, 4), (4, 10, 2), (0, 10, 1), (280, 10, 8)],
)
def test_the_more_layers_iterate_the_shorter_a_step(
    n_outside: int, n_think: int, length: int
) -> None:
    """Worth over cost. 28 layers around a block of 10: (44 · 10 + 12 · 28) / (28 + 40) = 11.4 for
    4 iterations, (28 · 10 + 8 · 28) / 48 = 10.5 for 2, (60 · 10 + 16 · 28) / 108 = 9.7 for all 8.
    Around 4 layers, 2 iterations have (280 + 32) / 24 = 13.0, and 1 has (160 + 16) / 14 = 12.6.
    """
    assert step_length(FOUR_OF_EACH, n_outside, n_think) == length


@given(st.lists(st.integers(1, 64), min_size=1), st.floats(0, 1000), st.integers(1, 64))
def test_at_least_one_request_ends_in_every_step(
    remaining: list[int], n_outside: float, n_think: int
) -> None:
    """Otherwise a step would sample nothing."""
    assert step_length(remaining, n_outside, n_think) in remaining


def test_requests_alike_run_to_the_end() -> None:
    """Nobody would fill the places of those that stop."""
    assert step_length([8] * 16, 28, 10) == 8


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
