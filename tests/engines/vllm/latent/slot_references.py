"""Looped models whose iterations share KV slots, in plain PyTorch: tokens one after another.

The one rule: iteration i of a token uses slot i mod k of each layer of the think block (Huginn,
arXiv 2502.05171, section 6.2). When iterations write in turn, a token reads of those before it what
the last iteration of each slot left there. Otherwise only the first k iterations write, and the
later ones read. Nothing here imports the plugin under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from loop_references import KeysValues, Model
from torch import Tensor


class Sharing(NamedTuple):
    """The slots of each layer, and whether iterations beyond them write."""

    n_slots: int
    later_write: bool


class Slots:
    """The keys and values of every token fed so far, by slot and layer."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._rows: dict[tuple[int, int], list[KeysValues]] = {}

    def lookup(self, iteration: int, layer: int, place: int) -> Callable[[KeysValues], KeysValues]:
        """Return what gives the token at `place` the keys and values to read, its own included."""
        n_slots, later_write = self._sharing
        rows = self._rows.setdefault((iteration % n_slots, layer), [])

        def read(new: KeysValues) -> KeysValues:
            own = new[0][place], new[1][place]
            if len(rows) == place:
                rows.append(own)
            elif later_write:
                rows[place] = own
            keys, values = zip(*rows, strict=True)
            return torch.stack(keys), torch.stack(values)

        return read


def generate(
    model: Model, prompt: Sequence[int], n_new: int, depth: int, sharing: Sharing, keep: float = 0.0
) -> list[int]:
    """Return the greedy continuation at one depth; `keep` is as in `loop_references.iterate`."""
    ids, slots = list(prompt), Slots(sharing)
    states: list[Tensor] = []
    for _ in range(n_new):
        n_fed = range(len(states) + 1, len(ids) + 1)
        states.extend(_state(model, ids[:n], depth, slots, keep) for n in n_fed)
        ids.append(int(model.logits(torch.stack(states))[-1].argmax()))
    return ids[len(prompt) :]


def _state(model: Model, ids: Sequence[int], depth: int, slots: Slots, keep: float) -> Tensor:
    """Return the final state of the last of these tokens; the rows of the others mean nothing."""
    embedded = model.embed(torch.tensor(ids))
    state = model.first_state(embedded)
    for iteration in range(depth):
        x = model.inject(state, embedded)
        for layer in range(model.n_core):
            x = model.layer(layer, x, slots.lookup(iteration, layer, len(ids) - 1))
        state = keep * state + (1 - keep) * model.close(x)
    return state[-1]
