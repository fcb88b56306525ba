"""The layer loop of a scheduled model: head, think block to the depth of each token, tail.

A family of models defines what surrounds its think block (`LoopCore`), and an exit rule may end a
token's iterations before its depth. A request computes an iteration as long as one of its tokens
runs it. Where the attention backend can leave requests out (`visits.can_reduce`), an iteration
computes those that still run and no others. Elsewhere it computes the whole batch, and tokens that
have stopped keep their state; what such an iteration writes into its own KV slots is read by no
token that counts.

Under an exit rule a token attends to the latest keys and values of every token before it, so an
iteration that does not compute a token costs a write into its KV slots.

The one rule: the result is that of each request alone. Eager; runs in vLLM's workers.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import torch

from orchestrator.core.layers import ExitRule, parse_exit, parse_schedule
from orchestrator.engines.vllm.depth import IterationLedger
from orchestrator.engines.vllm.latent.batch import ExitTracker, LatentBatch, LatestKeyValues
from orchestrator.engines.vllm.latent.state import HiddenState, StateUpdate, update_of
from orchestrator.engines.vllm.latent.visits import (
    LayerVisit,
    LayerVisits,
    RequestSubset,
    can_reduce,
    visits_of,
)


class LoopCore(Protocol):
    """What a family does around the layers of its think block."""

    def first_state(self, embedded: HiddenState, positions: torch.Tensor) -> HiddenState:
        """Return the state before the first iteration, from that after the head."""
        ...

    def inject(self, state: HiddenState, embedded: HiddenState) -> HiddenState:
        """Return what an iteration's first layer reads: new tensors, for layers write into them."""
        ...

    def close(self, after: HiddenState) -> HiddenState:
        """Return the state that an iteration ends with."""
        ...

    def release(self, state: HiddenState) -> HiddenState:
        """Return what the layers after the block read: new tensors."""
        ...

    def finish(self, after: HiddenState) -> torch.Tensor:
        """Return what the language-model head reads, (n_tokens, hidden_size)."""
        ...


class DecoderCore:
    """The core of an ordinary decoder: the state flows from one layer to the next."""

    def __init__(self, norm: Any) -> None:
        """Take the final norm."""
        self._norm = norm

    def first_state(self, embedded: HiddenState, positions: torch.Tensor) -> HiddenState:
        """Return the state after the layers before the block."""
        return embedded

    def inject(self, state: HiddenState, embedded: HiddenState) -> HiddenState:
        """Return a copy of the state."""
        return state.copy()

    def close(self, after: HiddenState) -> HiddenState:
        """Return the state as the layers leave it."""
        return after

    def release(self, state: HiddenState) -> HiddenState:
        """Return a copy of the state."""
        return state.copy()

    def finish(self, after: HiddenState) -> torch.Tensor:
        """Return the normed state."""
        if after.residual is None:
            return self._norm(after.hidden)
        normed, _ = self._norm(after.hidden, after.residual)
        return normed


class LayerLoop:
    """Runs all layers of one model.

    `ledger` counts each request's iterations, where a rule decides about them.
    """

    def __init__(
        self,
        visits: LayerVisits,
        core: LoopCore,
        update: StateUpdate | None,
        rule: ExitRule | None,
        head: Any,
    ) -> None:
        """Run these visits; `update` None: an iteration's state is what the core closes with.

        `head` makes logits of what `core.finish` returns; only a rule on predictions calls it.
        """
        self._visits, self._core, self._update = visits, core, update
        self._rule, self._head = rule, head
        self._can_reduce = can_reduce([*visits.thinking, *(() if rule is None else visits.tail)])
        self._latest: LatestKeyValues | None = None
        self.ledger = IterationLedger()
        if rule is not None:
            for iteration in visits.iterations:
                for layer, visit in enumerate(iteration):
                    self._divert(layer, visit.attention)

    def __call__(
        self, hidden: torch.Tensor, positions: torch.Tensor, batch: LatentBatch | None
    ) -> torch.Tensor:
        """Return what the language-model head reads.

        `batch` None: every token takes the largest depth, as warm-up runs need.
        """
        embedded = through(self._visits.head, positions, HiddenState(hidden))
        state = self._added_up(self._core.first_state(embedded, positions))
        if batch is None:
            shares = torch.ones(len(positions), 1, device=positions.device)
            for iteration in self._visits.iterations:
                state = self._iterate(iteration, positions, state, embedded, shares)
        else:
            state = self._think(state, embedded, positions, batch)
        return self._finish(state, positions)

    def _think(
        self,
        state: HiddenState,
        embedded: HiddenState,
        positions: torch.Tensor,
        batch: LatentBatch,
    ) -> HiddenState:
        """Return the state after as many iterations as each token takes."""
        tracker = ExitTracker(self._rule, batch, positions)
        if self._rule is not None:
            self._latest = LatestKeyValues(len(self._visits.iterations[0]))
        shares = 1.0 / batch.token_depths(len(positions), positions.device).unsqueeze(1)
        subsets: dict[tuple[int, ...], RequestSubset] = {}

        def subset(members: tuple[int, ...]) -> RequestSubset:
            if members not in subsets:
                subsets[members] = RequestSubset(members, batch, positions.device)
            return subsets[members]

        def predict(states: HiddenState, members: tuple[int, ...]) -> torch.Tensor:
            return self._logits(states, positions, subset(members))

        for iteration in self._visits.iterations:
            members = tracker.members()
            if self._latest is not None:
                self._latest.running = tracker.running
            if not members:
                self._write_latest(
                    iteration, torch.arange(batch.starts[-1], device=positions.device)
                )
                continue
            if self._can_reduce and len(members) < len(batch.depths):
                after = self._iterate_for(
                    subset(members), iteration, positions, state, embedded, shares
                )
            else:
                after = self._iterate(iteration, positions, state, embedded, shares)
            state = tracker.advance(state, after, predict)
        self._latest = None
        if self._rule is not None:
            self._count(batch, positions, tracker.iterations)
        return state

    def _iterate_for(
        self,
        subset: RequestSubset,
        iteration: Sequence[LayerVisit],
        positions: torch.Tensor,
        state: HiddenState,
        embedded: HiddenState,
        shares: torch.Tensor,
    ) -> HiddenState:
        """Return the state after one iteration of these requests; all others keep theirs."""
        tokens = subset.tokens
        if self._latest is not None:
            others = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
            others[tokens] = False
            self._write_latest(iteration, others.nonzero().squeeze(1))
            self._latest.tokens = tokens
        with subset.forward_context(iteration):
            part = self._iterate(
                iteration,
                positions[tokens],
                state.rows(tokens),
                embedded.rows(tokens),
                shares[tokens],
            )
        if self._latest is not None:
            self._latest.tokens = None
        return state.merged(tokens, part)

    def _iterate(
        self,
        iteration: Sequence[LayerVisit],
        positions: torch.Tensor,
        state: HiddenState,
        embedded: HiddenState,
        shares: torch.Tensor,
    ) -> HiddenState:
        """Return the state after one iteration of all tokens."""
        injected = self._core.inject(state, embedded)
        after = self._added_up(self._core.close(through(iteration, positions, injected)))
        if self._update is None:
            return after
        return HiddenState(self._update(state.hidden, after.hidden, shares))

    def _added_up(self, state: HiddenState) -> HiddenState:
        """Return the state as one tensor where an update or a rule compares whole states.

        Elsewhere its two parts stay apart, so that each layer computes what the stock model's does.
        """
        if self._update is None and self._rule is None:
            return state
        return HiddenState(state.whole())

    def _finish(self, state: HiddenState, positions: torch.Tensor) -> torch.Tensor:
        return self._core.finish(through(self._visits.tail, positions, self._core.release(state)))

    def _logits(
        self, state: HiddenState, positions: torch.Tensor, subset: RequestSubset
    ) -> torch.Tensor:
        """Return the logits of these requests, if their iterations ended here.

        The final pass overwrites what this leaves in the KV cache of the layers after the block.
        """
        if not self._can_reduce:
            return self._head(self._finish(state, positions)[subset.tokens])
        with subset.forward_context(self._visits.tail):
            return self._head(self._finish(state.rows(subset.tokens), positions[subset.tokens]))

    def _write_latest(self, iteration: Sequence[LayerVisit], tokens: torch.Tensor) -> None:
        """Write the latest keys and values of these tokens into the KV slots of an iteration that
        does not compute them.
        """
        from vllm.forward_context import get_forward_context

        if self._latest is None:
            return
        slots = get_forward_context().slot_mapping
        for layer, visit in enumerate(iteration):
            attention = visit.attention
            key, value = (
                part.view(len(tokens), attention.num_kv_heads, -1)
                for part in self._latest.of(layer, tokens)
            )
            attention.impl.do_kv_cache_update(
                attention, key, value, attention.kv_cache, slots[visit.name][tokens]
            )

    def _divert(self, layer: int, attention: Any) -> None:
        """Let an attention read the latest keys and values; its weights and name stay its own."""
        stock = attention.forward

        def forward(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any, **named: Any
        ) -> torch.Tensor:
            if self._latest is not None:
                key, value = self._latest.updated(layer, key, value)
            return stock(query, key, value, *others, **named)

        attention.forward = forward

    def _count(self, batch: LatentBatch, positions: torch.Tensor, iterations: torch.Tensor) -> None:
        counts, places = iterations.tolist(), positions.tolist()
        for i, request in enumerate(batch.ids):
            start, end = batch.starts[i], batch.starts[i + 1]
            # the first token that predicts one of the request's own
            first = min(end, max(start, start + batch.prompts[i] - 1 - places[start]))
            self.ledger.add(request, counts[start:first], counts[first:end])


def loop_of(
    model: Any, latent: Mapping[str, Any], context: MutableMapping[str, Any], core: LoopCore
) -> LayerLoop:
    """Return the loop of a vLLM causal model that `latent`, its `config.latent`, describes.

    Enters the visits' KV caches into vLLM's static forward `context`.
    """
    schedule = parse_schedule(latent["layers"])
    visits = visits_of(model.model.layers, schedule, int(latent["max_depth"]), context)
    rule = parse_exit(latent["exit"]) if latent.get("exit") else None
    return LayerLoop(visits, core, update_of(latent), rule, model.compute_logits)


def through(
    visits: Sequence[LayerVisit], positions: torch.Tensor, state: HiddenState
) -> HiddenState:
    """Return the state after these layers."""
    hidden, residual = state.hidden, state.residual
    for visit in visits:
        hidden, residual = visit.layer(positions, hidden, residual)
    return HiddenState(hidden, residual)
