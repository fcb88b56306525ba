"""Sampling of several positions of a request in one step, each with its own noise.

A request's generator is drawn from once for each of its tokens, so the noise of its t-th token is
the t-th draw. The one rule: a position's token is the one that vLLM's own sampler gives it without
drafts, by the same logits processors and the same draw. So a draft that was sampled from shallower
logits with the draw of its position, and is kept where it equals the token of that position,
changes nothing: equal requests have equal tokens, whatever was drafted, kept or preempted. This
differs from rejection sampling (arXiv 2211.17192), which keeps the distribution but not the tokens;
it needs no probabilities of the drafts.

Needs torch and, when called, vllm 0.32. `drafts` decides what is drafted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from orchestrator.engines.vllm.latent.batch import on_device

_REJECTED = -1  # vLLM's placeholder in a step's sampled tokens


class RowGenerators(dict[int, torch.Generator]):
    """Generators by row of logits, and the state of each after its draw.

    Rows of one request share its generator and draw in order. vLLM's samplers, those of CPUs and of
    GPUs, draw while they iterate over the items.
    """

    def __init__(self, generators: Mapping[int, torch.Generator]) -> None:
        super().__init__(generators)
        self.states: dict[int, torch.Tensor] = {}

    def items(self) -> Iterator[tuple[int, torch.Generator]]:  # type: ignore[override]  # a view elsewhere
        """Yield rows and generators in ascending order of rows; read each one's state after it."""
        for row, generator in super().items():
            yield row, generator
            self.states[row] = generator.get_state()


def copy_of(generator: torch.Generator) -> torch.Generator:
    """Return a generator that draws the same from now on."""
    twin = torch.Generator(device=generator.device)
    twin.set_state(generator.get_state())
    return twin


def drafted_tokens(
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    requests: Sequence[int],
    before: Sequence[Sequence[int]],
    generators: Mapping[int, torch.Generator],
) -> list[int]:
    """Return a draft for each of these requests of the batch, which has drafts `before` it.

    `generators` are by row; logits are (n_requests, vocabulary).
    """
    rows = rows_of(metadata, requests, before, generators, logits.device)
    plain = dataclasses.replace(rows, max_num_logprobs=None, logprob_token_ids=None)
    sampled = sampler(logits=logits, sampling_metadata=plain).sampled_token_ids
    return [int(token) for token in sampled[:, 0].tolist()]


def verified(
    sampler: Any, logits: torch.Tensor, metadata: Any, drafts: Sequence[Sequence[int]]
) -> tuple[Any, list[int]]:
    """Return vLLM's SamplerOutput for a step with drafts, and how many of each request's it keeps.

    Request i has `len(drafts[i]) + 1` rows of logits: one after each draft, and one before.
    """
    requests = [i for i, own in enumerate(drafts) for _ in range(len(own) + 1)]
    before = [own[:n] for own in drafts for n in range(len(own) + 1)]
    own_generators = metadata.generators
    generators = RowGenerators(
        {row: own_generators[i] for row, i in enumerate(requests) if i in own_generators}
    )
    rows = rows_of(metadata, requests, before, generators, logits.device)
    lengths = [len(own) + 1 for own in drafts]
    rows.logitsprocs = SimpleNamespace(
        argmax_invariant=[],
        non_argmax_invariant=[
            _LeastLength(one, lengths) for one in metadata.logitsprocs.non_argmax_invariant
        ],
    )
    holder = metadata.thinking_budget_state_holder
    if holder is not None:
        firsts = [sum(lengths[:i]) for i in range(len(lengths))]
        rows.thinking_budget_state_holder = _ThinkingLimit(holder, metadata, firsts)
    output = sampler(logits=logits, sampling_metadata=rows)
    return _kept(output, drafts, generators, logits.device)


def rows_of(
    metadata: Any,
    requests: Sequence[int],
    before: Sequence[Sequence[int]],
    generators: Mapping[int, torch.Generator],
    device: torch.device,
) -> Any:
    """Return vLLM's SamplingMetadata with a row for each of `requests`, indices into the batch.

    The output of a row's request ends with its drafts `before`. Processors with a state of their
    own (least length, limit of thinking) are left out.
    """
    at = on_device(requests, torch.long, device)

    def own(values: Any) -> Any:
        return None if values is None else values[at]

    tensors = ("temperature", "top_p", "top_k", "prompt_token_ids", "allowed_token_ids_mask")
    penalties = ("frequency_penalties", "presence_penalties", "repetition_penalties")
    outputs = metadata.output_token_ids
    lists = {"bad_words_token_ids": metadata.bad_words_token_ids}
    if metadata.logprob_token_ids is not None:
        lists["logprob_token_ids"] = metadata.logprob_token_ids
    return dataclasses.replace(
        metadata,
        generators=generators,
        output_token_ids=[
            [*outputs[i], *drafts] for i, drafts in zip(requests, before, strict=True)
        ]
        if outputs
        else [],
        spec_token_ids=None,
        logitsprocs=SimpleNamespace(argmax_invariant=[], non_argmax_invariant=[]),
        thinking_budget_state_holder=None,
        **{name: own(getattr(metadata, name)) for name in (*tensors, *penalties)},
        **{
            name: {row: values[i] for row, i in enumerate(requests) if i in values}
            for name, values in lists.items()
        },
    )


def _kept(
    output: Any,
    drafts: Sequence[Sequence[int]],
    generators: RowGenerators,
    device: torch.device,
) -> tuple[Any, list[int]]:
    """Return a step's output without what follows a rejected draft, and the numbers of drafts kept.

    The generator of each request is returned to the state after its last token.
    """
    sampled = [int(token) for token in output.sampled_token_ids[:, 0].tolist()]
    width = max(len(own) for own in drafts) + 1
    tokens, places, n_kept, first = [], [], [], 0
    for own in drafts:
        rows = sampled[first : first + len(own) + 1]
        n = next((n for n, draft in enumerate(own) if draft != rows[n]), len(own))
        tokens.append(rows[: n + 1] + [_REJECTED] * (width - n - 1))
        places += [first + min(column, n) for column in range(width)]
        if first + n in generators.states:
            generators[first].set_state(generators.states[first + n])
        n_kept.append(n)
        first += len(own) + 1
    at = on_device(places, torch.long, device)
    logprobs = output.logprobs_tensors
    if logprobs is not None:  # a row for each place of `tokens`, as vLLM filters them
        fields = (logprobs.logprob_token_ids, logprobs.logprobs, logprobs.selected_token_ranks)
        logprobs = type(logprobs)(*(field[at] for field in fields))
    changed = dataclasses.replace(
        output,
        sampled_token_ids=torch.tensor(tokens, dtype=torch.int32, device=device),
        logprobs_tensors=logprobs,
    )
    return changed, n_kept


class _LeastLength:
    """vLLM's processor of `min_tokens`, for several rows per request."""

    def __init__(self, stock: Any, n_rows: list[int]) -> None:
        self._stock, self._n_rows = stock, n_rows

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits without the stop tokens of requests that are too short to end."""
        changed: torch.Tensor = self._stock.apply_with_spec_decode(logits, self._n_rows)
        return changed


class _ThinkingLimit:
    """vLLM's holder of thinking budgets, for several rows per request.

    A request with a budget is never drafted for, so it has a single row.
    """

    def __init__(self, stock: Any, metadata: Any, firsts: list[int]) -> None:
        self._stock, self._metadata, self._firsts = stock, metadata, firsts

    def has_tracked_requests(self) -> bool:
        """Return whether a request has a budget."""
        return bool(self._stock.has_tracked_requests())

    def update_state(self, *_: Any, **__: Any) -> None:
        """Let the holder see the requests' outputs."""
        self._stock.update_state(self._metadata.output_token_ids, None)

    def apply_to_logits(self, logits: torch.Tensor, *_: Any) -> torch.Tensor:
        """Return the logits with the end of the thinking forced where it is due."""
        at = on_device(self._firsts, torch.long, logits.device)
        forced = self._stock.apply_to_logits(logits[at], False, None)
        return logits.index_copy(0, at, forced)
