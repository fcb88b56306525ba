"""The requests of one vLLM step: the depth of each, and its tokens that still iterate.

The one rule: a token's computation depends on the tokens before it and on nothing else in the
batch. It is the same in any batch, in chunks, after a preemption, and after a cached prefix.
Therefore a token that stops keeps its state, and every later iteration uses its keys and values of
the last iteration that it ran: Huginn's lookup of the latest cache entry (arXiv 2502.05171, section
6.1, and the authors' code).

Needs torch, not vllm. The iterations themselves are in `loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

import torch

from orchestrator.core.layers import ExitRule
from orchestrator.engines.vllm.latent.state import HiddenState

# states of all tokens, requests with one token each -> the logits of those requests
Predict: TypeAlias = Callable[[HiddenState, tuple[int, ...]], torch.Tensor]


class Noise(NamedTuple):
    """Noise on the first states of a request's own tokens: its size in their root mean square."""

    size: float
    seed: int


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """The requests of one step in batch order; request i has tokens `starts[i]` to `starts[i + 1]`.

    Shapes are (n,), but (n + 1,) for `starts`. The ids and the prompt lengths in tokens are those
    of vLLM's requests; () for drafts without noise. `noise` is () if no request has any, `warm` if
    none starts its own tokens from the last states of those before. `spans`
    are each request's first iteration in this step and the one after its last; () if all begin and
    end in it.
    """

    depths: tuple[int, ...]
    starts: tuple[int, ...]
    ids: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()
    noise: tuple[Noise | None, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    warm: tuple[bool, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """The tokens of each request in this step."""
        return [end - start for start, end in pairwise(self.starts)]

    @property
    def longest(self) -> int:
        """The most tokens that a request has in this step."""
        return max(self.lengths, default=0)

    @property
    def is_draft(self) -> bool:
        """Whether these are tokens that a request drafts, not those of a step."""
        return not self.ids

    def first_own(self, i: int, place: int) -> int:
        """Return where the own tokens of request i begin, whose first token here has this position.

        The first of these is the last one of the prompt, which predicts the first one generated. It
        is the end of the request's tokens if it has none in this step.
        """
        start, end = self.starts[i], self.starts[i + 1]
        return min(end, max(start, start + self.prompts[i] - 1 - place))

    def tokens(self, members: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Return the positions of these requests' tokens in the batch, (n_tokens,), ascending."""
        places = [place for i in members for place in range(self.starts[i], self.starts[i + 1])]
        return on_device(places, torch.long, device)

    def selected(self, members: tuple[int, ...]) -> LatentBatch:
        """Return a batch of these requests' tokens alone, in this order."""
        lengths = [self.starts[i + 1] - self.starts[i] for i in members]
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "starts"}
        own = {
            name: tuple(all_[i] for i in members) if all_ else () for name, all_ in values.items()
        }
        return LatentBatch(starts=tuple(accumulate(lengths, initial=0)), **own)

    def token_depths(self, n_tokens: int, device: torch.device) -> torch.Tensor:
        """Return the depth of each token, (n_tokens,); 1 for the padding after the last request."""
        depths = [
            depth
            for i, depth in enumerate(self.depths)
            for _ in range(self.starts[i], self.starts[i + 1])
        ]
        padding = [1] * (n_tokens - len(depths))
        return on_device(depths + padding, torch.long, device)


def on_device(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return these numbers as a tensor on a device.

    On a GPU the copy is queued from pinned memory: `torch.tensor(..., device=device)` would wait
    for all queued work.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


class ExitTracker:
    """Tracks which tokens of a batch run the next iteration, and how many each has run.

    `running` and `iterations` are both (n_tokens,).
    """

    def __init__(self, rule: ExitRule | None, batch: LatentBatch, positions: torch.Tensor) -> None:
        """Start before the first iteration.

        A token runs to the depth of its request, unless `rule` ends it earlier.
        """
        n = len(positions)
        self._rule, self._batch = rule, batch
        self._depths = batch.token_depths(n, positions.device)
        self._decoding: tuple[int, ...] = ()
        if rule is not None and rule.reads_predictions:
            self._decoding = self._decoding_requests(positions)
        self._measure = None if rule is None else _MEASURES[rule.measure](rule.threshold)
        self._n_done = 0  # iterations
        self.running = torch.ones(n, dtype=torch.bool, device=positions.device)
        self.iterations = torch.zeros(n, dtype=torch.long, device=positions.device)

    def members(self) -> tuple[int, ...]:
        """Return the requests with a token that runs the next iteration.

        Only a rule makes this wait for the device.
        """
        if self._rule is None:
            return tuple(i for i, depth in enumerate(self._batch.depths) if depth > self._n_done)
        running = self.running.tolist()
        starts = self._batch.starts
        return tuple(
            i for i in range(len(self._batch.depths)) if any(running[starts[i] : starts[i + 1]])
        )

    def advance(self, before: HiddenState, after: HiddenState, predict: Predict) -> HiddenState:
        """Return the states after an iteration, and record which tokens run the next one.

        A token that did not run keeps its state from `before`.
        """
        everybody = self._rule is None and len(self.members()) == len(self._batch.depths)
        state = after if everybody else before.replaced(self.running, after)
        self.iterations += self.running
        self._n_done += 1
        running = self.running & (self._depths > self._n_done)
        if self._rule is not None and bool(running.any()):
            running = running & ~self._settled(self._rule, before, state, predict)
        self.running = running
        return state

    def _settled(
        self, rule: ExitRule, before: HiddenState, state: HiddenState, predict: Predict
    ) -> torch.Tensor:
        """Return a mask of the tokens that the rule ends, (n_tokens,)."""
        assert self._measure is not None, "it belongs to the rule"
        if not rule.reads_predictions:
            settled = self._measure(before.whole().float(), state.whole().float())
        else:
            settled = torch.zeros_like(self.running)
            if self._decoding:
                places = self._batch.tokens(self._decoding, settled.device)
                settled[places] = self._measure(predict(state, self._decoding).float())
        return settled & (self._n_done >= rule.least)

    def _decoding_requests(self, positions: torch.Tensor) -> tuple[int, ...]:
        """Return the requests with a single token in this step, a generated one.

        Only these may exit by their prediction.
        """
        starts, prompts = self._batch.starts, self._batch.prompts
        places = positions.tolist()
        return tuple(
            i
            for i, prompt in enumerate(prompts)
            if starts[i + 1] - starts[i] == 1 and places[starts[i]] >= prompt
        )


class _Change:
    """Whether ||s_i - s_{i-1}|| / ||s_i|| is below the threshold, of states (n_tokens, width).

    As the other measures, it is called after each iteration, and returns a mask of its rows.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def __call__(self, before: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return (state - before).norm(dim=-1) / state.norm(dim=-1) < self._threshold


class _Acceleration:
    """Whether ||d_i - d_{i-1}|| / ||s_i|| was below the threshold now and before.

    d_i = s_i - s_{i-1}. The second-order exit of arXiv 2509.23314 with its check of two successive
    iterations; the norm of the state makes the threshold independent of a model's scale.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._step: torch.Tensor | None = None
        self._was_below: torch.Tensor | None = None

    def __call__(self, before: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        step = state - before
        nowhere = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        is_below = nowhere
        if self._step is not None:
            is_below = (step - self._step).norm(dim=-1) / state.norm(dim=-1) < self._threshold
        was_below = nowhere if self._was_below is None else self._was_below
        self._step, self._was_below = step, is_below
        return is_below & was_below


class _Divergence:
    """Whether KL(p_{i-1} || p_i) is below the threshold, from the logits (n_rows, vocabulary).

    p_0 is uniform, as in Huginn's code.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._logprobs: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        new = torch.log_softmax(logits, dim=-1)
        old = self._logprobs
        if old is None:
            old = torch.log_softmax(torch.zeros_like(new), dim=-1)
        self._logprobs = new
        return (old.exp() * (old - new)).sum(dim=-1) < self._threshold


class _Entropy:
    """Whether the entropy of p_i, in nats, is below the threshold, from the logits."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        logprobs = torch.log_softmax(logits, dim=-1)
        return -(logprobs.exp() * logprobs).nan_to_num().sum(dim=-1) < self._threshold


class _Agreement:
    """Whether the last iterations, as many as the threshold, have the same most likely token."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._tokens: torch.Tensor | None = None
        self._n_equal: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        tokens = logits.argmax(dim=-1)
        n_equal = torch.ones_like(tokens)
        if self._tokens is not None and self._n_equal is not None:
            n_equal = torch.where(tokens == self._tokens, self._n_equal + 1, n_equal)
        self._tokens, self._n_equal = tokens, n_equal
        return n_equal >= self._threshold


_MEASURES: Mapping[str, Callable[[float], Callable[..., torch.Tensor]]] = {
    "state": _Change,
    "acceleration": _Acceleration,
    "kl": _Divergence,
    "entropy": _Entropy,
    "agreement": _Agreement,
}


class LatestKeyValues:
    """The keys and values of each token's last iteration, for each layer of the think block.

    `tokens` are the positions of the tokens that the current iteration computes, None for all;
    `running` is the tracker's, for all tokens.
    """

    def __init__(self, n_layers: int) -> None:
        """Start before the first iteration, which all tokens run."""
        self.running: torch.Tensor | None = None
        self.tokens: torch.Tensor | None = None
        self._latest: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * n_layers

    def updated(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values to use in place of those that the layer has just computed.

        Both are (n, head size x heads), for the tokens that the iteration computes.
        """
        latest = self._latest[layer]
        if latest is None or self.running is None:
            self._latest[layer] = key, value
            return key, value
        at = slice(None) if self.tokens is None else self.tokens
        running = self.running[at].unsqueeze(1)
        key = torch.where(running, key, latest[0][at])
        value = torch.where(running, value, latest[1][at])
        self._latest[layer] = key, value
        if self.tokens is not None:
            self._latest[layer] = (
                latest[0].index_copy(0, self.tokens, key),
                latest[1].index_copy(0, self.tokens, value),
            )
        return key, value

    def of(self, layer: int, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latest keys and values of the tokens at these positions in this layer."""
        latest = self._latest[layer]
        assert latest is not None, "the first iteration runs all tokens"
        return latest[0][tokens], latest[1][tokens]
