"""The layer stack of a scheduled model: head, think block as often as each row's depth says, tail. Eager; runs in vLLM's workers.

Two ways to serve rows of different depths, chosen by what the attention backend allows. *Skip*: the layers of an iteration are
computed for the rows that want it only. *Mask*: for all rows of the step, and those that were done keep their state; what the others'
further iterations write into the KV cache is read by none of their later tokens' states that count.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from orchestrator.core.schedule import Schedule
from orchestrator.latent.attention import Reduced, can_reduce
from orchestrator.latent.rows import Rows
from orchestrator.latent.state import State, Update
from orchestrator.latent.visits import Visit, visits_of


class Stack:
    """Runs the layers of one model. `update` None: the state flows through the iterations as through any layers."""

    def __init__(
        self, layers: Sequence[Any], schedule: Schedule, max_depth: int, context: MutableMapping[str, Any], update: Update | None
    ) -> None:
        """Lay out the visits; `context` is vLLM's static forward context, which gets their KV caches."""
        self._visits = visits_of(layers, schedule, max_depth, context)
        self._update = update
        thinking = [visit for visits in self._visits.iterations for visit in visits]
        self.skips = can_reduce(thinking)

    def __call__(self, hidden: torch.Tensor, positions: torch.Tensor, rows: Rows | None) -> State:
        """Return the state after the last layer. `rows` None: every row at the largest depth, as warm-up runs need."""
        state = _through(self._visits.head, positions, State(hidden))
        state = self._thought(state, positions, rows)
        return _through(self._visits.tail, positions, state)

    def _thought(self, state: State, positions: torch.Tensor, rows: Rows | None) -> State:
        iterations = self._visits.iterations
        n = len(iterations) if rows is None else min(rows.deepest, len(iterations))
        shares = _shares(n, rows, state.hidden)
        selections: dict[tuple[int, ...], Reduced] = {}
        for number, visits in enumerate(iterations[:n], 1):
            members = None if rows is None else rows.going_on(number)
            if members is None or rows is None:
                state = self._iterated(visits, positions, state, shares)
            elif self.skips:
                if members not in selections:
                    selections[members] = Reduced(members, rows.tokens(members, positions.device))
                state = self._iterated_for(selections[members], visits, positions, state, shares)
            else:
                going = rows.token_depths(len(positions), positions.device) >= number
                state = _chosen(going, self._iterated(visits, positions, state.copy(), shares), state)
        return state

    def _iterated(self, visits: Sequence[Visit], positions: torch.Tensor, state: State, shares: float | torch.Tensor) -> State:
        """Return the state after one iteration of all rows."""
        if self._update is None:
            return _through(visits, positions, state)
        before = state.whole()
        after = _through(visits, positions, State(before.clone())).whole()
        return State(self._update(before, after, shares))

    def _iterated_for(
        self, going: Reduced, visits: Sequence[Visit], positions: torch.Tensor, state: State, shares: float | torch.Tensor
    ) -> State:
        """Return the state after one iteration of the rows that go on; the others keep theirs."""
        from vllm.forward_context import get_forward_context, override_forward_context

        share = shares if isinstance(shares, float) else shares[going.tokens]
        with override_forward_context(going.context(get_forward_context(), visits)):
            part = self._iterated(visits, positions[going.tokens], state.rows(going.tokens), share)
        return state.merged(going.tokens, part)


def _through(visits: Sequence[Visit], positions: torch.Tensor, state: State) -> State:
    hidden, residual = state.hidden, state.residual
    for visit in visits:
        hidden, residual = visit.layer(positions, hidden, residual)
    return State(hidden, residual)


def _shares(depth: int, rows: Rows | None, hidden: torch.Tensor) -> float | torch.Tensor:
    """Return 1 / depth: one number where all rows have the same, else per token (n_tokens, 1)."""
    if rows is None or len(set(rows.depths)) == 1:
        return 1.0 / max(depth, 1)
    return 1.0 / rows.token_depths(len(hidden), hidden.device).unsqueeze(1)


def _chosen(going: torch.Tensor, new: State, old: State) -> State:
    going = going.unsqueeze(1)
    if new.residual is None or old.residual is None:
        return State(torch.where(going, new.whole(), old.whole()))
    return State(torch.where(going, new.hidden, old.hidden), torch.where(going, new.residual, old.residual))
