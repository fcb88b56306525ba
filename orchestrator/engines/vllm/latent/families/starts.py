"""The states from which the tokens of a step begin to loop: cold, warm, with noise.

Continuous thought (Huginn, arXiv 2502.05171, section 6.3, and `continuous_compute` of the authors'
`generate_with_adaptive_compute`): a generated token starts from the state after the last iteration
of the token before instead of a new one. That is the state before the norm of the coda; in the
authors' loop at a fixed depth it is the one after it. `warm_start` is the share of that state in
the mixture of both, 1 in the paper; less is ours, for models that read a token only as its first
state.

The one rule: a token's first state follows from its request's tokens, prompt length and depth
alone. So a prompt starts cold, since its tokens are computed at once. The last states are kept as
long as the request exists, by position: what is computed again after a preemption, all at once,
starts from the same ones. Needs torch, not vllm.
"""

from __future__ import annotations

import torch

from orchestrator.engines.vllm.latent.batch import LatentBatch, on_device
from orchestrator.engines.vllm.latent.families.cores import LoopCore
from orchestrator.engines.vllm.latent.families.draws import perturbed
from orchestrator.engines.vllm.latent.state import HiddenState


class FirstStates:
    """The first states of a model's tokens, and the last ones that warm starts take them from."""

    def __init__(self, core: LoopCore, warm_start: float) -> None:
        """Start with no request; without `warm_start` all tokens start cold."""
        self._core, self.warm_start = core, warm_start
        # by request, from that of the last token of its prompt on: (hidden_size,) each
        self._last: dict[str, list[torch.Tensor]] = {}

    @property
    def n_kept(self) -> int:
        """The requests whose last states are kept."""
        return len(self._last)

    def of(
        self, embedded: HiddenState, positions: torch.Tensor, batch: LatentBatch | None
    ) -> HiddenState:
        """Return the states before the first iteration, from those after the head.

        Noise is added to what a token starts from, cold or warm.
        """
        state = self._core.first_state(embedded, positions)
        if batch is not None and batch.warm and self.warm_start:
            state = self._warmed(state, positions, batch)
        if batch is not None and batch.noise:
            state = perturbed(state, batch, positions)
        return state

    def _warmed(
        self, state: HiddenState, positions: torch.Tensor, batch: LatentBatch
    ) -> HiddenState:
        places = positions.tolist()
        rows: list[int] = []
        before: list[torch.Tensor] = []
        for i in _warm_requests(batch):
            start, end, n_prompt = batch.starts[i], batch.starts[i + 1], batch.prompts[i]
            own = range(max(start, start + n_prompt - places[start]), end)
            if own:
                first = places[own[0]] - n_prompt
                rows += own
                before += self._last[batch.ids[i]][first : first + len(own)]
        if not rows:
            return state
        tokens = on_device(rows, torch.long, positions.device)
        mixed = torch.lerp(state.rows(tokens).whole(), torch.stack(before), self.warm_start)
        return HiddenState(state.whole()).merged(tokens, HiddenState(mixed))

    def keep(self, state: HiddenState, positions: torch.Tensor, batch: LatentBatch) -> None:
        """Keep the states after the last iterations, as far as later tokens start from them.

        A token that is computed again has its state already.
        """
        if not self.warm_start:
            return
        places = positions.tolist()
        for i in _warm_requests(batch):
            first = batch.first_own(i, places[batch.starts[i]])
            if first < batch.starts[i + 1]:
                last = self._last.setdefault(batch.ids[i], [])
                n_before = places[first] - batch.prompts[i] + 1
                assert n_before <= len(last), "each of a request's own tokens is computed here"
                new = range(first + len(last) - n_before, batch.starts[i + 1])
                last += [state.hidden[row].clone() for row in new]

    def forget(self, request: str) -> None:
        """Drop the states of a request that has ended."""
        self._last.pop(request, None)


def _warm_requests(batch: LatentBatch) -> list[int]:
    return [i for i, is_warm in enumerate(batch.warm) if is_warm]
