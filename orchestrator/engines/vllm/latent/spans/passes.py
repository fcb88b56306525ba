"""A step in which each request runs a span of its iterations, all requests side by side.

Requests begin at their own iteration, 0 or where an earlier step stopped, and advance together: one
call of a layer serves requests at different iterations. The layer's weights are the same in all of
them, and its KV caches are reached through one view (`joint.JointVisits`).

The one rule: a request computes what it would compute in one step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch

from orchestrator.engines.vllm.latent.batch import LatentBatch
from orchestrator.engines.vllm.latent.spans.joint import JointVisits
from orchestrator.engines.vllm.latent.state import HiddenState, concatenated
from orchestrator.engines.vllm.latent.visits import LayerVisit, LayerVisits, RequestSubset

# tokens, positions, their batch -> the states after the head, and before the first iteration
Begin: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, LatentBatch], tuple[HiddenState, HiddenState]
]
# layers, positions, states, states after the head, shares -> the states after an iteration
Iterate: TypeAlias = Callable[
    [Sequence[LayerVisit], torch.Tensor, HiddenState, HiddenState, torch.Tensor], HiddenState
]
# states and positions -> the input of the language-model head
Finish: TypeAlias = Callable[[HiddenState, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Begun:
    """The tokens of a request that is not done: their states now, and after the head."""

    state: HiddenState
    embedded: HiddenState


@dataclass(slots=True)
class SpanLayers:
    """The layers of a model, for steps with spans, and the requests that it has begun.

    `done` are the requests of the last such step that ended in it, until `take_done`.
    """

    visits: LayerVisits
    begin: Begin
    iterate: Iterate
    finish: Finish
    begun: dict[str, Begun] = field(default_factory=dict)
    done: tuple[int, ...] | None = None
    _joint: JointVisits | None = None

    @property
    def joint(self) -> JointVisits:
        """The think block's layers for requests at different iterations.

        Made when it is first needed, because vLLM allocates the KV caches after the model.
        """
        if self._joint is None:
            self._joint = JointVisits(self.visits.iterations)
        return self._joint

    def take_done(self) -> tuple[int, ...] | None:
        """Return, once, the requests that ended in the last step with spans, None without one."""
        done, self.done = self.done, None
        return done

    def run(
        self, hidden: torch.Tensor, positions: torch.Tensor, batch: LatentBatch
    ) -> torch.Tensor:
        """Return the input of the language-model head; 0 for requests that are not done."""
        n = batch.starts[-1]
        step = _Step(self, positions[:n], batch)
        step.begin(hidden[:n])
        for tick in range(max(stop - start for start, stop in batch.spans)):
            step.advance(tick)
        step.keep()
        return step.finished(hidden)


class _Step:
    """One step: the states of all its tokens."""

    def __init__(self, layers: SpanLayers, positions: torch.Tensor, batch: LatentBatch) -> None:
        self._layers, self._positions, self._batch = layers, positions, batch
        self._shares = 1.0 / batch.token_depths(len(positions), positions.device).unsqueeze(1)
        self._everybody = tuple(range(len(batch.depths)))
        self._subsets: dict[tuple[int, ...], RequestSubset] = {}
        self._state: HiddenState
        self._embedded: HiddenState

    def _subset(self, members: tuple[int, ...]) -> RequestSubset:
        if members not in self._subsets:
            self._subsets[members] = RequestSubset(members, self._batch, self._positions.device)
        return self._subsets[members]

    def begin(self, hidden: torch.Tensor) -> None:
        """Run the head for the requests that begin, and take up those that have begun."""
        layers, batch = self._layers, self._batch
        new = tuple(i for i, (start, _) in enumerate(batch.spans) if start == 0)
        if new == self._everybody:
            self._embedded, self._state = layers.begin(hidden, self._positions, batch)
            return
        begun = {i: layers.begun.pop(batch.ids[i]) for i in self._everybody if i not in new}
        if new:
            subset = self._subset(new)
            tokens, own = subset.tokens, batch.selected(new)
            with subset.forward_context(layers.visits.head):
                embedded, state = layers.begin(hidden[tokens], self._positions[tokens], own)
            for i, (start, stop) in zip(new, pairwise(own.starts), strict=True):
                part = slice(start, stop)
                begun[i] = Begun(state.rows(part), embedded.rows(part))
        self._state = concatenated([begun[i].state for i in self._everybody])
        self._embedded = concatenated([begun[i].embedded for i in self._everybody])

    def advance(self, tick: int) -> None:
        """Run an iteration of all requests whose span has more than `tick` of them."""
        layers, spans = self._layers, self._batch.spans
        members = tuple(i for i, (start, stop) in enumerate(spans) if start + tick < stop)
        iterations = [spans[i][0] + tick for i in members]
        own = layers.visits.iterations[iterations[0]]
        is_joint = len(set(iterations)) > 1
        if members == self._everybody and not is_joint:
            self._state = layers.iterate(
                own, self._positions, self._state, self._embedded, self._shares
            )
            return
        subset = self._subset(members)
        tokens = subset.tokens
        context = (
            layers.joint.forward_context(subset, iterations)
            if is_joint
            else subset.forward_context(own)
        )
        with context:
            part = layers.iterate(
                layers.joint.visits if is_joint else own,
                self._positions[tokens],
                self._state.rows(tokens),
                self._embedded.rows(tokens),
                self._shares[tokens],
            )
        self._state = self._state.merged(tokens, part)

    def keep(self) -> None:
        """Keep the states of the requests that are not done."""
        batch = self._batch
        for i, (_, stop) in enumerate(batch.spans):
            if stop < batch.depths[i]:
                own = slice(batch.starts[i], batch.starts[i + 1])
                self._layers.begun[batch.ids[i]] = Begun(
                    self._state.rows(own).copy(), self._embedded.rows(own).copy()
                )

    def finished(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run the tail for the requests that are done."""
        layers, batch = self._layers, self._batch
        done = tuple(i for i in self._everybody if batch.spans[i][1] == batch.depths[i])
        layers.done = done
        output = torch.zeros_like(hidden)
        if done == self._everybody:
            output[: len(self._positions)] = layers.finish(self._state, self._positions)
        elif done:
            subset = self._subset(done)
            with subset.forward_context(layers.visits.tail):
                output[subset.tokens] = layers.finish(
                    self._state.rows(subset.tokens), self._positions[subset.tokens]
                )
        return output
