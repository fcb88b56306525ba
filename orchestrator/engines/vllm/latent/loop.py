"""The layer stack of a scheduled model: head, think block as often as each row's depth says, tail.
Eager; runs in vLLM's workers.

Two ways to serve rows of different depths, chosen by what the attention backend allows. *Skip*: the
layers of an iteration are computed for the rows that want it only. *Mask*: for all rows of the
step, and those that were done keep their state; what the others' further iterations write into the
KV cache is read by none of their later tokens' states that count.

The stack of a model whose think block is more than layers, or whose tokens may stop before their
depth. Eager; in vLLM's workers.

`stack` runs blocks that are nothing but layers, to a depth fixed per request. Here a family says
what surrounds its block (`Core`), and an exit rule may end a token's iterations. A request computes
an iteration as long as one of its tokens runs it; where the attention backend cannot leave rows out
(`attention.can_reduce`), the whole batch computes it as long as any token does, and the values of
those that have stopped are put aside. Iterations that nobody computes cost a write into their KV
slots.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Protocol

import torch

from orchestrator.core.layers import ExitRule, Schedule, parse_exit
from orchestrator.engines.vllm.depth import Ledger
from orchestrator.engines.vllm.latent.batch import Rows, Settling, Shown
from orchestrator.engines.vllm.latent.state import State, Update, update_of
from orchestrator.engines.vllm.latent.visits import Reduced, Visit, Visits, can_reduce, visits_of


class Stack:
    """Runs the layers of one model.

    `update` None: the state flows through the iterations as through any layers.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        schedule: Schedule,
        max_depth: int,
        context: MutableMapping[str, Any],
        update: Update | None,
    ) -> None:
        """Lay out the visits; `context` is vLLM's static forward context, which gets their KV
        caches.
        """
        self._visits = visits_of(layers, schedule, max_depth, context)
        self._update = update
        thinking = [visit for visits in self._visits.iterations for visit in visits]
        self.skips = can_reduce(thinking)

    def __call__(self, hidden: torch.Tensor, positions: torch.Tensor, rows: Rows | None) -> State:
        """Return the state after the last layer.

        `rows` None: every row at the largest depth, as warm-up runs need.
        """
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
                state = _chosen(
                    going, self._iterated(visits, positions, state.copy(), shares), state
                )
        return state

    def _iterated(
        self,
        visits: Sequence[Visit],
        positions: torch.Tensor,
        state: State,
        shares: float | torch.Tensor,
    ) -> State:
        """Return the state after one iteration of all rows."""
        if self._update is None:
            return _through(visits, positions, state)
        before = state.whole()
        after = _through(visits, positions, State(before.clone())).whole()
        return State(self._update(before, after, shares))

    def _iterated_for(
        self,
        going: Reduced,
        visits: Sequence[Visit],
        positions: torch.Tensor,
        state: State,
        shares: float | torch.Tensor,
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
    return State(
        torch.where(going, new.hidden, old.hidden), torch.where(going, new.residual, old.residual)
    )


class Core(Protocol):
    """What a family does around the layers of its think block. All tensors (n_tokens, width)."""

    def first_state(self, embedded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the state before the first iteration."""
        ...

    def inject(self, state: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return what an iteration's first layer reads: a new tensor, for layers write into it."""
        ...

    def close(self, after: State) -> torch.Tensor:
        """Return the state that an iteration ends with."""
        ...

    def release(self, state: torch.Tensor) -> torch.Tensor:
        """Return what the layers after the block read: a new tensor."""
        ...

    def finish(self, after: State) -> torch.Tensor:
        """Return what the head reads, of the state after the last layer."""
        ...


class PlainCore:
    """The core of an ordinary decoder: an iteration is its layers, and the state flows from one to
    the next.
    """

    def __init__(self, norm: Any) -> None:
        """Take the final norm."""
        self._norm = norm

    def first_state(self, embedded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return what the layers before the block made."""
        return embedded

    def inject(self, state: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return a copy of the state."""
        return state.clone()

    def close(self, after: State) -> torch.Tensor:
        """Return the sum of the state's halves."""
        return after.whole()

    def release(self, state: torch.Tensor) -> torch.Tensor:
        """Return a copy of the state."""
        return state.clone()

    def finish(self, after: State) -> torch.Tensor:
        """Return the normed state."""
        return self._norm(after.whole())


class Recurrence:
    """Runs all layers of one model.

    `ledger` has what each request has used, where a rule decides about it.
    """

    def __init__(
        self, visits: Visits, core: Core, update: Update | None, rule: ExitRule | None, head: Any
    ) -> None:
        """`head` makes logits of what `core.finish` returns; only a rule on predictions calls it."""
        self._visits, self._core, self._update, self._rule, self._head = (
            visits,
            core,
            update,
            rule,
            head,
        )
        thinking = [visit for iteration in visits.iterations for visit in iteration]
        self._skips = can_reduce([*thinking, *visits.tail])
        self._shown: Shown | None = None
        self.ledger = Ledger()
        if rule is not None:
            for iteration in visits.iterations:
                for layer, visit in enumerate(iteration):
                    self._show_through(layer, visit.attention)

    def __call__(
        self, hidden: torch.Tensor, positions: torch.Tensor, rows: Rows | None
    ) -> torch.Tensor:
        """Return what the head reads.

        `rows` None: every token takes the largest depth, as warm-up runs need.
        """
        embedded = through(self._visits.head, positions, State(hidden)).whole()
        state = self._core.first_state(embedded, positions)
        if rows is None:
            for iteration in self._visits.iterations:
                state = self._iterated(iteration, positions, state, embedded, 1.0)
        else:
            state = self._thought(state, embedded, positions, rows)
        return self._finished(state, positions)

    def _thought(
        self, state: torch.Tensor, embedded: torch.Tensor, positions: torch.Tensor, rows: Rows
    ) -> torch.Tensor:
        settling = Settling(self._rule, rows, positions)
        self._shown = Shown(len(self._visits.iterations[0])) if self._rule is not None else None
        shares = 1.0 / rows.token_depths(len(positions), positions.device).unsqueeze(1)
        selections: dict[tuple[int, ...], Reduced] = {}

        def predict(states: torch.Tensor, requests: tuple[int, ...]) -> torch.Tensor:
            return self._logits(
                states, positions, self._selected(selections, requests, rows, positions)
            )

        for iteration in self._visits.iterations:
            members = settling.members()
            if self._shown is not None:
                self._shown.runs = settling.runs
            if not members:
                self._fill(iteration, torch.arange(rows.starts[-1], device=positions.device))
                continue
            selection = None
            if len(members) < len(rows.depths) and self._skips:
                selection = self._selected(selections, members, rows, positions)
            after = self._iterated_for(selection, iteration, positions, state, embedded, shares)
            state = settling.settle(state, after, predict)
        self._shown = None
        if self._rule is not None:
            self._count(rows, positions, settling.taken)
        return state

    def _iterated_for(
        self,
        selection: Reduced | None,
        iteration: Sequence[Visit],
        positions: torch.Tensor,
        state: torch.Tensor,
        embedded: torch.Tensor,
        shares: torch.Tensor,
    ) -> torch.Tensor:
        """Return the states after one iteration; what is not in the selection keeps its own."""
        if selection is None:
            return self._iterated(iteration, positions, state, embedded, shares)
        from vllm.forward_context import get_forward_context, override_forward_context

        tokens = selection.tokens
        if self._shown is not None:
            rest = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
            rest[tokens] = False
            self._fill(iteration, rest.nonzero().squeeze(1))
            self._shown.tokens = tokens
        with override_forward_context(selection.context(get_forward_context(), iteration)):
            part = self._iterated(
                iteration, positions[tokens], state[tokens], embedded[tokens], shares[tokens]
            )
        if self._shown is not None:
            self._shown.tokens = None
        return state.index_copy(0, tokens, part)

    def _iterated(
        self,
        iteration: Sequence[Visit],
        positions: torch.Tensor,
        state: torch.Tensor,
        embedded: torch.Tensor,
        shares: float | torch.Tensor,
    ) -> torch.Tensor:
        after = self._core.close(
            through(iteration, positions, State(self._core.inject(state, embedded)))
        )
        return after if self._update is None else self._update(state, after, shares)

    def _finished(self, state: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self._core.finish(
            through(self._visits.tail, positions, State(self._core.release(state)))
        )

    def _logits(
        self, state: torch.Tensor, positions: torch.Tensor, selection: Reduced
    ) -> torch.Tensor:
        """Return the logits of the selection, if its iterations ended here; the final pass
        overwrites what this leaves in the KV cache.
        """
        from vllm.forward_context import get_forward_context, override_forward_context

        if not self._skips:
            return self._head(self._finished(state, positions)[selection.tokens])
        with override_forward_context(selection.context(get_forward_context(), self._visits.tail)):
            return self._head(self._finished(state[selection.tokens], positions[selection.tokens]))

    def _selected(
        self,
        known: dict[tuple[int, ...], Reduced],
        members: tuple[int, ...],
        rows: Rows,
        positions: torch.Tensor,
    ) -> Reduced:
        if members not in known:
            known[members] = Reduced(members, rows.tokens(members, positions.device))
        return known[members]

    def _fill(self, iteration: Sequence[Visit], tokens: torch.Tensor) -> None:
        """Write what these tokens show into the KV slots of an iteration that does not compute
        them.
        """
        from vllm.forward_context import get_forward_context

        if self._shown is None:
            return
        slots = get_forward_context().slot_mapping
        for layer, visit in enumerate(iteration):
            attention = visit.attention
            key, value = (
                part.view(len(tokens), attention.num_kv_heads, -1)
                for part in self._shown.held(layer, tokens)
            )
            attention.impl.do_kv_cache_update(
                attention, key, value, attention.kv_cache, slots[visit.name][tokens]
            )

    def _show_through(self, layer: int, attention: Any) -> None:
        """Let what `attention` sees pass through `Shown`; its weights and its name stay its own."""
        stock = attention.forward

        def forward(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any, **named: Any
        ) -> torch.Tensor:
            if self._shown is not None:
                key, value = self._shown.of(layer, key, value)
            return stock(query, key, value, *others, **named)

        attention.forward = forward

    def _count(self, rows: Rows, positions: torch.Tensor, taken: torch.Tensor) -> None:
        iterations, places = taken.tolist(), positions.tolist()
        for i, request in enumerate(rows.ids):
            start, end = rows.starts[i], rows.starts[i + 1]
            # the first that predicts a token of its own
            first = min(end, max(start, start + rows.prompts[i] - 1 - places[start]))
            self.ledger.note(request, iterations[start:first], iterations[first:end])


def recurrence_of(
    model: Any,
    layers: Sequence[Any],
    schedule: Schedule,
    max_depth: int,
    context: MutableMapping[str, Any],
    core: Core,
) -> Recurrence:
    """Return the stack of a vLLM causal model whose `config.latent` says the rest.

    Enters KV caches in vLLM's forward `context`.
    """
    latent = model.config.latent
    rule = parse_exit(latent["exit"]) if latent.get("exit") else None
    return Recurrence(
        visits_of(layers, schedule, max_depth, context),
        core,
        update_of(latent),
        rule,
        model.compute_logits,
    )


def through(visits: Sequence[Visit], positions: torch.Tensor, state: State) -> State:
    """Return the state after these layers."""
    hidden, residual = state.hidden, state.residual
    for visit in visits:
        hidden, residual = visit.layer(positions, hidden, residual)
    return State(hidden, residual)
