"""Which rows of a step go on thinking: the depth of each request in the batch, and where its tokens
lie. Needs torch, not vllm.

Which tokens of a step still iterate, and what the others see of those that have stopped. Needs
torch, not vllm.

A token that stops keeps its state, and its keys and values of the last iteration it ran stand for
it in every later one: Huginn's lookup of the latest cache entry (arXiv 2502.05171, section 6.1, and
the authors' code). So what a token computes depends on the tokens before it and on nothing else in
the batch: it is the same in any company, in chunks, after a preemption, and behind a cached prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from orchestrator.core.layers import ExitRule


@dataclass(frozen=True, slots=True)
class Rows:
    """The requests of one step, in the order of the batch: request i has the tokens `starts[i]` to
    `starts[i + 1]` and runs to `depths[i]`. Shapes (n,) and (n + 1,). Its id and its prompt's
    length in tokens are for exit rules; () where there is none.
    """

    depths: tuple[int, ...]
    starts: tuple[int, ...]
    ids: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()

    @property
    def deepest(self) -> int:
        """How many iterations the step needs."""
        return max(self.depths, default=0)

    def going_on(self, iteration: int) -> tuple[int, ...] | None:
        """Return the requests that run `iteration` (counted from 1); None when all of them do."""
        members = tuple(i for i, depth in enumerate(self.depths) if depth >= iteration)
        return None if len(members) == len(self.depths) else members

    def tokens(self, members: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Return the places of these requests' tokens, (n_tokens,), ascending."""
        places = [place for i in members for place in range(self.starts[i], self.starts[i + 1])]
        return torch.tensor(places, dtype=torch.long, device=device)

    def token_depths(self, n_tokens: int, device: torch.device) -> torch.Tensor:
        """Return the depth of each token, (n_tokens,); 1 for the padding after the last request's."""
        depths = [
            depth
            for i, depth in enumerate(self.depths)
            for _ in range(self.starts[i], self.starts[i + 1])
        ]
        return torch.tensor(
            depths + [1] * (n_tokens - len(depths)), dtype=torch.long, device=device
        )


# states of all tokens, requests of one token each -> their logits
Predict = Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]


class Settling:
    """One pass over one batch: `runs` says which tokens take the next iteration, `taken` how many
    each has had; both (n_tokens,).
    """

    def __init__(self, rule: ExitRule | None, rows: Rows, positions: torch.Tensor) -> None:
        """Start before the first iteration; every token of a request runs to its request's depth
        unless `rule` ends it before.
        """
        n = len(positions)
        self._rule, self._rows = rule, rows
        self._depths = rows.token_depths(n, positions.device)
        self._decoding = (
            self._decoding_requests(positions) if rule is not None and rule.measure == "kl" else ()
        )
        self._done = 0  # iterations
        self._said: torch.Tensor | None = (
            None  # log-probabilities (n_decoding, vocabulary) of the step before
        )
        self.runs = torch.ones(n, dtype=torch.bool, device=positions.device)
        self.taken = torch.zeros(n, dtype=torch.long, device=positions.device)

    def members(self) -> tuple[int, ...]:
        """Return the requests with a token that takes the next iteration.

        Only a rule makes this wait for the device.
        """
        if self._rule is None:
            return tuple(i for i, depth in enumerate(self._rows.depths) if depth > self._done)
        running = self.runs.tolist()
        starts = self._rows.starts
        return tuple(
            i for i in range(len(self._rows.depths)) if any(running[starts[i] : starts[i + 1]])
        )

    def settle(self, before: torch.Tensor, after: torch.Tensor, predict: Predict) -> torch.Tensor:
        """Return the states `(n_tokens, width)` after an iteration: `after` where a token ran, and
        note who goes on.
        """
        state = torch.where(self.runs.unsqueeze(1), after, before)
        self.taken += self.runs
        self._done += 1
        going = self.runs & (self._depths > self._done)
        if self._rule is not None and bool(going.any()):
            going = going & ~self._settled(self._rule, before, state, predict)
        self.runs = going
        return state

    def _settled(
        self, rule: ExitRule, before: torch.Tensor, state: torch.Tensor, predict: Predict
    ) -> torch.Tensor:
        """Return which tokens the rule ends, among those that ran; (n_tokens,)."""
        if rule.measure == "state":
            if self._done < rule.least:
                return torch.zeros_like(self.runs)
            change = (state.float() - before.float()).norm(dim=-1) / state.float().norm(dim=-1)
            return change < rule.below
        settled = torch.zeros_like(self.runs)
        if self._decoding:
            places = self._rows.tokens(self._decoding, state.device)
            divergence = self._divergence(predict(state, self._decoding))
            settled[places] = (divergence < rule.below) & (self._done >= rule.least)
        return settled

    def _divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """Return KL(p_{i-1} || p_i) of each row; p_0 is uniform, as in the authors' code."""
        now = torch.log_softmax(logits.float(), dim=-1)
        before = (
            torch.log_softmax(torch.zeros_like(now), dim=-1) if self._said is None else self._said
        )
        self._said = now
        return (before.exp() * (before - now)).sum(dim=-1)

    def _decoding_requests(self, positions: torch.Tensor) -> tuple[int, ...]:
        """Return the requests whose one token of this step is a generated one: only these may leave
        by their prediction.
        """
        starts, prompts = self._rows.starts, self._rows.prompts
        places = positions.tolist()
        return tuple(
            i
            for i, prompt in enumerate(prompts)
            if starts[i + 1] - starts[i] == 1 and places[starts[i]] >= prompt
        )


class Shown:
    """The keys and values that each layer of the think block shows in a pass: those of a token's
    last iteration.

    `tokens` are the places of the tokens that the current iteration computes, None for all; `runs`
    as in `Settling`, for all tokens.
    """

    def __init__(self, n_layers: int) -> None:
        """Start before the first iteration, which all tokens run."""
        self.runs: torch.Tensor | None = None
        self.tokens: torch.Tensor | None = None
        self._held: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * n_layers

    def of(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the layer's attention may use in place of what it has just computed, (n,
        width of a head x heads) each.
        """
        held = self._held[layer]
        if held is None or self.runs is None:
            shown = (key, value)
        elif self.tokens is None:
            going = self.runs.unsqueeze(1)
            shown = (torch.where(going, key, held[0]), torch.where(going, value, held[1]))
        else:
            going = self.runs[self.tokens].unsqueeze(1)
            shown = (
                torch.where(going, key, held[0][self.tokens]),
                torch.where(going, value, held[1][self.tokens]),
            )
            self._held[layer] = (
                held[0].index_copy(0, self.tokens, shown[0]),
                held[1].index_copy(0, self.tokens, shown[1]),
            )
            return shown
        self._held[layer] = shown
        return shown

    def held(self, layer: int, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the newest keys and values of these tokens in this layer."""
        held = self._held[layer]
        assert held is not None, "the first iteration runs all tokens"
        return held[0][tokens], held[1][tokens]
