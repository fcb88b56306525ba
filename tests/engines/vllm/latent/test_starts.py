"""The first states of a step's tokens without an engine: which are warm, and what is kept."""

from __future__ import annotations

import pytest
import torch

from orchestrator.engines.vllm.latent.batch import LatentBatch
from orchestrator.engines.vllm.latent.families.cores import DecoderCore
from orchestrator.engines.vllm.latent.families.starts import FirstStates
from orchestrator.engines.vllm.latent.state import HiddenState

pytestmark = pytest.mark.engine  # torch is imported

# its first states are the embedding; the norm belongs to the end of the model
CORE = DecoderCore(None)
IDS, PROMPTS, WARM = ("a", "b"), (2, 3), (True, False)


def begun(starts: FirstStates, batch: LatentBatch, positions: list[int]) -> list[float]:
    """Return the first states of the tokens, which are one number wide, of embeddings of 1."""
    ones = HiddenState(torch.ones(len(positions), 1))
    return starts.of(ones, torch.tensor(positions), batch).whole().flatten().tolist()


def kept(starts: FirstStates, batch: LatentBatch, positions: list[int], last: list[float]) -> None:
    state = HiddenState(torch.tensor(last, dtype=torch.float32).unsqueeze(1))
    starts.keep(state, torch.tensor(positions), batch)


def stepped(starts: FirstStates) -> None:
    """Run the prompts of both requests, in pieces, and two tokens of each."""
    prompts = LatentBatch((3, 3), (0, 1, 3), IDS, PROMPTS, warm=WARM)
    assert begun(starts, prompts, [0, 0, 1]) == [1, 1, 1]
    kept(starts, prompts, [0, 0, 1], [50, 50, 50])
    rest = LatentBatch((3, 3), (0, 1, 2), IDS, PROMPTS, warm=WARM)
    assert begun(starts, rest, [1, 2]) == [1, 1]
    kept(starts, rest, [1, 2], [5, 70])
    assert begun(starts, rest, [2, 3]) == [3, 1]  # halfway from 1 to 5
    kept(starts, rest, [2, 3], [9, 70])
    assert begun(starts, rest, [3, 4]) == [5, 1]
    kept(starts, rest, [3, 4], [13, 70])


def test_own_tokens_start_from_the_last_state_of_the_token_before() -> None:
    """From that of the prompt's last token on; a request that starts cold has none kept."""
    starts = FirstStates(CORE, 0.5)
    stepped(starts)
    assert starts.n_kept == 1


def test_tokens_that_are_computed_again_start_from_the_same_states() -> None:
    """All at once, in pieces, or behind those in the prefix cache; what is kept does not change."""
    starts = FirstStates(CORE, 0.5)
    stepped(starts)
    whole = LatentBatch((3,), (0, 4), ("a",), (2,), warm=(True,))
    assert begun(starts, whole, [0, 1, 2, 3]) == [1, 1, 3, 5]
    kept(starts, whole, [0, 1, 2, 3], [-1, -1, -1, -1])
    piece = LatentBatch((3,), (0, 2), ("a",), (2,), warm=(True,))
    assert begun(starts, piece, [2, 3]) == [3, 5]
    kept(starts, piece, [2, 3], [-1, -1])
    assert begun(starts, piece, [3, 4]) == [5, 7]
    kept(starts, piece, [3, 4], [-1, 17])
    one = LatentBatch((3,), (0, 1), ("a",), (2,), warm=(True,))
    assert begun(starts, one, [5]) == [9]


def test_an_ended_request_leaves_nothing() -> None:
    """Another one of its name starts at its own prompt."""
    starts = FirstStates(CORE, 0.5)
    stepped(starts)
    starts.forget("a")
    starts.forget("b")
    assert starts.n_kept == 0
    stepped(starts)


def test_without_a_share_all_start_cold_and_nothing_is_kept() -> None:
    """A request cannot ask for what its model does not do."""
    starts = FirstStates(CORE, 0.0)
    batch = LatentBatch((3,), (0, 1), ("a",), (2,), warm=(True,))
    kept(starts, batch, [1], [5])
    assert begun(starts, batch, [2]) == [1]
    assert starts.n_kept == 0


def test_the_last_state_alone_is_taken_as_it_is() -> None:
    """With a share of 1 nothing of the token's own state is left, not even by rounding."""
    starts = FirstStates(CORE, 1.0)
    batch = LatentBatch((3,), (0, 1), ("a",), (2,), warm=(True,))
    kept(starts, batch, [1], [0.1])
    assert begun(starts, batch, [2]) == [torch.tensor(0.1).item()]
