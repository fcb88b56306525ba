"""The layer loop of a scheduled model: head, think block up to each token's depth, tail.

Each model family defines the computation around its think block (`families.cores`), and an exit
rule may end a token's iterations before its depth. A request computes an iteration as long as one
of its tokens runs it. If the attention backend can omit requests (`visits.can_reduce`), an
iteration computes only those that still run. Otherwise it computes the whole batch, and stopped
tokens keep their state; no running token reads what such an iteration writes into its own KV slots
for them.

Under an exit rule a token attends to the latest keys and values of every token before it, so an
iteration that skips a token still has to write its KV slots.

Where iterations overwrite each other's KV slots, a token must find those of the tokens before it
complete. So the tokens that a request has in a step run one after another, each through all its
iterations.

The one rule: each request's result is the same as if it ran alone. Eager; runs in vLLM's workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from orchestrator.core.layers import ExitRule
from orchestrator.engines.vllm.depth import DraftCounts, IterationCounts, Ledger
from orchestrator.engines.vllm.latent.batch import (
    ExitTracker,
    LatentBatch,
    LatestKeyValues,
    on_device,
)
from orchestrator.engines.vllm.latent.families.cores import LoopCore
from orchestrator.engines.vllm.latent.families.starts import FirstStates
from orchestrator.engines.vllm.latent.spans.passes import SpanLayers
from orchestrator.engines.vllm.latent.state import HiddenState, StateUpdate, concatenated
from orchestrator.engines.vllm.latent.visits import (
    LayerVisit,
    LayerVisits,
    RequestSubset,
    can_reduce,
    reading,
    through,
    writes_by_itself,
)


class LayerLoop:
    """Runs all layers of one model.

    `ledger` counts each request's iterations if there is an exit rule, `drafts` its drafts.
    """

    def __init__(
        self,
        visits: LayerVisits,
        core: LoopCore,
        update: StateUpdate | None,
        rule: ExitRule | None,
        head: Any,
        early: int = 0,
        warm_start: float = 0.0,
    ) -> None:
        """Run these visits; without `update` an iteration's state is the core's closed state.

        `head` computes logits from the result of `core.finish`; only a rule on predictions calls
        it. `early` is the iteration of a cascade, 0 without one; `warm_start` the share of the last
        state of the token before in the first one of a generated token.
        """
        self.visits, self._core, self._update = visits, core, update
        self._rule, self._head, self._early = rule, head, early
        self._can_reduce = can_reduce([*visits.thinking, *(() if rule is None else visits.tail)])
        if visits.overwritten and not self._can_reduce:
            raise ValueError(
                'kv_writes = "last" computes the tokens of a prompt one after another, and the '
                "metadata of this attention backend cannot be built for each of them: choose "
                'another one (args = { attention_backend = "TRITON_ATTN" }), or kv_writes = "first"'
            )
        if visits.has_readers and any(writes_by_itself(visit) for visit in visits.thinking):
            raise ValueError(
                'with kv_writes = "first" later iterations only read, and this attention backend '
                'always writes: choose another one (args = { attention_backend = "TRITON_ATTN" })'
            )
        self._latest: LatestKeyValues | None = None
        self.starts = FirstStates(core, warm_start)
        self.ledger = Ledger(IterationCounts)
        self.drafts = Ledger(DraftCounts)
        self.spans = SpanLayers(visits, self._begin, self._iterate, self._finish)
        if rule is not None:
            for iteration in visits.iterations:
                for layer, visit in enumerate(iteration):
                    self._divert(layer, visit.attention)

    def __call__(
        self, hidden: torch.Tensor, positions: torch.Tensor, batch: LatentBatch | None
    ) -> torch.Tensor:
        """Return the input of the language-model head, (n_tokens, hidden_size).

        In a cascade, unless the batch is of drafts, that of the early iteration is beside it, in
        (n_tokens, 2 x hidden_size). Without `batch` every token runs to the largest depth, as
        warm-up runs need.
        """
        if batch is not None and batch.spans:
            return self.spans.run(hidden, positions, batch)
        embedded, state = self._begin(hidden, positions, batch)
        early: HiddenState | None = state if self._early else None
        if batch is None:
            shares = torch.ones(len(positions), 1, device=positions.device)
            for iteration in self.visits.iterations:
                state = self._iterate(iteration, positions, state, embedded, shares)
        elif self.visits.overwritten and batch.longest > 1:
            state = self._think_in_order(state, embedded, positions, batch)
        else:
            state, early = self._think(state, embedded, positions, batch)
        if batch is not None and batch.warm:
            self.starts.keep(state, positions, batch)
        final = self._finish(state, positions)
        return final if early is None else self._beside(final, early, positions, batch)

    def _begin(
        self, hidden: torch.Tensor, positions: torch.Tensor, batch: LatentBatch | None
    ) -> tuple[HiddenState, HiddenState]:
        """Return the states after the head, and before the first iteration."""
        is_draft = batch is not None and batch.is_draft
        head = self.visits.drafting if is_draft else self.visits.head
        embedded = through(head, positions, HiddenState(hidden))
        return embedded, self._added_up(self.starts.of(embedded, positions, batch))

    def _think(
        self,
        state: HiddenState,
        embedded: HiddenState,
        positions: torch.Tensor,
        batch: LatentBatch,
    ) -> tuple[HiddenState, HiddenState | None]:
        """Return the state of each token after its iterations, and after those of a cascade."""
        tracker = ExitTracker(self._rule, batch, positions)
        if self._rule is not None:
            self._latest = LatestKeyValues(len(self.visits.iterations[0]))
        shares = 1.0 / batch.token_depths(len(positions), positions.device).unsqueeze(1)
        subsets: dict[tuple[int, ...], RequestSubset] = {}

        def subset(members: tuple[int, ...]) -> RequestSubset:
            if members not in subsets:
                subsets[members] = RequestSubset(members, batch, positions.device)
            return subsets[members]

        def predict(states: HiddenState, members: tuple[int, ...]) -> torch.Tensor:
            return self._logits(states, positions, subset(members))

        early = state
        for number, iteration in enumerate(self.visits.iterations, 1):
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
            early = state if number <= self._early else early
        self._latest = None
        if self._rule is not None:
            self._count(batch, positions, tracker.iterations)
        return state, early if self._early and not batch.is_draft else None

    def _think_in_order(
        self,
        state: HiddenState,
        embedded: HiddenState,
        positions: torch.Tensor,
        batch: LatentBatch,
    ) -> HiddenState:
        """Return the state of each token; the tokens of a request run one after another."""
        tokens, states = [], []
        for column in range(batch.longest):
            own = tuple(i for i, n in enumerate(batch.lengths) if n > column)
            subset = RequestSubset(own, batch, positions.device, column)
            tokens.append(subset.tokens)
            states.append(
                self._column(
                    subset, batch, positions, state.rows(tokens[-1]), embedded.rows(tokens[-1])
                )
            )
        return state.merged(torch.cat(tokens), concatenated(states))

    def _column(
        self,
        subset: RequestSubset,
        batch: LatentBatch,
        positions: torch.Tensor,
        state: HiddenState,
        embedded: HiddenState,
    ) -> HiddenState:
        """Return the states of this token of each of the requests of `subset`.

        `state` and `embedded` have these tokens only, `positions` all of the step.
        """
        column, own = subset.column, subset.members
        for n_done, iteration in enumerate(self.visits.iterations):
            running = tuple(i for i in own if batch.depths[i] > n_done)
            if not running:
                break
            if running != subset.members:
                subset = RequestSubset(running, batch, positions.device, column)
            rows = on_device([own.index(i) for i in running], torch.long, positions.device)
            depths = on_device([batch.depths[i] for i in running], torch.long, positions.device)
            with subset.forward_context(iteration):
                after = self._iterate(
                    iteration,
                    positions[subset.tokens],
                    state.rows(rows),
                    embedded.rows(rows),
                    1.0 / depths.unsqueeze(1),
                )
            state = state.merged(rows, after)
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
        """Return the state after one iteration of these requests; the others keep their state."""
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
        """Return the state as one tensor if an update, a rule or a warm start uses whole states.

        Otherwise its two parts stay separate, so that each layer computes the same as in the stock
        model.
        """
        if self._update is None and self._rule is None and not self.starts.warm_start:
            return state
        return HiddenState(state.whole())

    def _finish(self, state: HiddenState, positions: torch.Tensor) -> torch.Tensor:
        return self._core.finish(through(self.visits.tail, positions, self._core.release(state)))

    def _beside(
        self,
        final: torch.Tensor,
        early: HiddenState,
        positions: torch.Tensor,
        batch: LatentBatch | None,
    ) -> torch.Tensor:
        """Return the input of the head with that of the early iteration beside it.

        The layers after the block run once more, over the early states. They attend to the keys and
        values of the deep states, every token's own ones included, and write none: so an early
        prediction depends on the tokens before it alone, not on how many a step computes. Both are
        equal where the depth is no larger than the early iteration.
        """
        with reading(self.visits.tail):
            other = self._finish(early, positions)
        if batch is not None:
            is_deep = batch.token_depths(len(positions), positions.device) > self._early
            other = torch.where(is_deep.unsqueeze(1), other, final)
        return torch.cat((final, other), dim=-1)

    def _logits(
        self, state: HiddenState, positions: torch.Tensor, subset: RequestSubset
    ) -> torch.Tensor:
        """Return the logits of these requests as if their iterations ended here.

        The final pass overwrites the entries that this writes to the KV cache of the layers after
        the block.
        """
        if not self._can_reduce:
            return self._head(self._finish(state, positions)[subset.tokens])
        with subset.forward_context(self.visits.tail):
            return self._head(self._finish(state.rows(subset.tokens), positions[subset.tokens]))

    def _write_latest(self, iteration: Sequence[LayerVisit], tokens: torch.Tensor) -> None:
        """Write the latest keys and values of these tokens into the KV slots of an iteration.

        The iteration does not compute these tokens.
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
        """Make an attention read the latest keys and values; its weights and name do not change."""
        stock = attention.forward

        def forward(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any, **named: Any
        ) -> torch.Tensor:
            if self._latest is not None:
                key, value = self._latest.updated(layer, key, value)
            return stock(query, key, value, *others, **named)

        attention.forward = forward

    def n_layers_run(self, depth: int) -> int:
        """Return the number of layers that a token passes at this depth, 0 for a draft's."""
        visits = self.visits
        head = visits.head if depth else visits.drafting
        n_think = len(visits.iterations[0]) if visits.iterations else 0
        return len(head) + depth * n_think + len(visits.tail)

    def count_drafts(self, request: str, drafted: int, accepted: int) -> None:
        """Count a step's drafts; the iterations of those that were rejected do not count."""
        self.drafts.of(request).add(drafted, accepted)
        if self._rule is not None:
            self.ledger.of(request).retract(drafted - accepted)

    def forget(self, requests: Iterable[str]) -> None:
        """Drop the states of requests that have ended."""
        for request in requests:
            self.spans.begun.pop(request, None)
            self.starts.forget(request)

    def _count(self, batch: LatentBatch, positions: torch.Tensor, iterations: torch.Tensor) -> None:
        counts, places = iterations.tolist(), positions.tolist()
        for i, request in enumerate(batch.ids):
            start, end = batch.starts[i], batch.starts[i + 1]
            first = batch.first_own(i, places[start])
            place = places[start] + first - start - batch.prompts[i] + 1
            self.ledger.of(request).add(counts[start:first], counts[first:end], place)
