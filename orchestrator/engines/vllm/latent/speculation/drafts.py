"""Self-speculation: a request drafts tokens at a smaller depth and verifies them at its own.

The draft runs the same layers over the same KV caches, for one token at a time, with fewer
iterations or, where the model does not loop, with layers left out. The next step of the engine
computes the drafts with all of them, all at once, and keeps those that are what it samples
(`noise`). What the draft wrote to the caches is overwritten then, and only kept tokens reach the
prefix cache.

The one rule: drafts change no token, only how many passes it takes to compute them. Requests that
do not go deeper than the draft, and those without a seed, run without drafts. Built on vLLM's
`custom_class` proposers and three methods of its V1 runner (0.32); for our models only.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from orchestrator.engines.vllm.latent.batch import LatentBatch, on_device
from orchestrator.engines.vllm.latent.runner import requested_depth
from orchestrator.engines.vllm.latent.speculation.noise import copy_of, drafted_tokens, verified
from orchestrator.engines.vllm.latent.speculation.payoff import Payoff
from orchestrator.engines.vllm.latent.visits import PER_REQUEST, can_reduce

_FIRST_GUESS = (8.0, 10.0)  # drafts kept, and decided upon, before any was
_MEMORY = 0.98  # weight of what came before, for each step of a request
_TRIAL = 16
_LEAST_GAIN = 1.1  # by the formula, which is only so exact
_OVERHEAD = 0.12  # what a draft costs beside its layers, in passes over one token (a CPU's)
_GREEDY = 1e-5  # below this temperature vLLM takes the most likely token


@dataclass(slots=True)
class _Row:
    """A request that is drafted for: its place in the batch, and the drafts so far."""

    place: int
    n_tokens: int  # its prompt, and what has been sampled
    most: int  # drafts
    ends: frozenset[int]  # tokens after which nothing follows
    last: int
    drafts: list[int]

    def is_open(self) -> bool:
        """Return whether another draft may follow."""
        return len(self.drafts) < self.most and self.last not in self.ends

    @property
    def position(self) -> int:
        """The position of the last token, which has no keys and values yet."""
        return self.n_tokens + len(self.drafts) - 1


class DraftLengths:
    """Decides how many tokens to draft, from how often drafts were kept and from the batch. Pure.

    With a the chance that a draft is kept, k drafts give (1 - a^(k+1)) / (1 - a) tokens for k
    passes of the draft and one of its request (arXiv 2211.17192, section 3.5). A pass over n tokens
    costs 1 + n / `step_tokens` (there: as much as over one), and the draft's as much less as it
    runs fewer layers, and `_OVERHEAD` more. So a full batch, where each further token costs its
    share, drafts nothing.
    Requests of one depth share a. Where no draft pays because too few were kept, one step in
    `_TRIAL` drafts nevertheless, to see whether that has changed.
    """

    def __init__(
        self, most: int, n_layers: Callable[[int], int], depth: int, step_tokens: int
    ) -> None:
        """Draft up to `most` tokens at `depth`; `n_layers` gives the layers run at a depth."""
        self._most, self._n_layers, self._depth = most, n_layers, depth
        self._step_tokens = step_tokens
        self._seen: dict[int, tuple[float, float]] = {}  # by depth: drafts kept, and decided upon
        self._n_steps = 0

    def count(self, depth: int, drafted: int, accepted: int) -> None:
        """Count a step of a request of this depth; what follows a rejected draft says nothing."""
        kept, decided = self._seen.get(depth, _FIRST_GUESS)
        decided = _MEMORY * decided + accepted + (accepted < drafted)
        self._seen[depth] = _MEMORY * kept + accepted, decided

    def of_step(self, depths: Sequence[int]) -> list[int]:
        """Return how many tokens to draft in this step for requests of these depths, all it has."""
        self._n_steps += 1
        found = {depth: self._length(depth, len(depths)) for depth in set(depths)}
        return [found[depth] for depth in depths]

    def _length(self, depth: int, n_requests: int) -> int:
        if depth <= self._depth:
            return 0
        kept, decided = self._seen.get(depth, _FIRST_GUESS)
        best = self._best(kept / decided, depth, n_requests)
        if best == 0 and self._n_steps % _TRIAL == 0:
            return min(1, self._best(1.0, depth, n_requests))
        return best

    def _best(self, chance: float, depth: int, n_requests: int) -> int:
        """Return the length that gives most tokens for the time; 0 unless it gives 10 % more."""
        cost = self._n_layers(self._depth) / self._n_layers(depth)

        def rate(k: int) -> float:
            n_expected = sum(chance**n for n in range(k + 1))
            drafting = k * (cost * self._pass(n_requests) + _OVERHEAD)
            return n_expected / (drafting + self._pass(n_requests * (k + 1)))

        best = max(range(self._most + 1), key=rate)
        return best if rate(best) > _LEAST_GAIN * rate(0) else 0

    def _pass(self, n_tokens: int) -> float:
        return 1 + n_tokens / self._step_tokens


class DepthProposer:
    """Proposes tokens that the model itself finds with fewer layers; one per worker of vLLM.

    Its settings are in the model's configuration, under `config.latent["draft"]`
    (`orchestrator.plan.looped.Draft`).
    """

    def __init__(self, vllm_config: Any) -> None:
        """Install the hooks: vLLM makes the proposer before it makes its scheduler."""
        settings = vllm_config.model_config.hf_config.latent["draft"]
        self._depth, self._step_tokens = int(settings["depth"]), int(settings["step_tokens"])
        self._most = int(vllm_config.speculative_config.num_speculative_tokens)
        self._model: Any = None
        self._lengths: DraftLengths | None = None
        self._payoff = Payoff()
        self._before: tuple[list[str], bool, float] | None = None  # requests, drafted, when
        self.step: tuple[Any, Any] | None = None  # vLLM's runner, and its description of the step
        self.is_verified = False  # whether this step was sampled by `noise`
        install()

    def load_model(self, model: Any) -> None:
        """Draft with the model that verifies; ValueError if its attention cannot run twice a step.

        vLLM calls this once.
        """
        visits = model.loop.visits
        if not can_reduce([*visits.drafting, *visits.thinking, *visits.tail]):
            raise ValueError(
                "drafts compute several passes in a step, and the metadata of this attention "
                "backend cannot be built for each of them: choose another one "
                '(args = { attention_backend = "TRITON_ATTN" }), or leave the drafts out'
            )
        self._model = model
        self._lengths = DraftLengths(
            self._most, model.loop.n_layers_run, self._depth, self._step_tokens
        )

    def count(self, depth: int, drafted: int, accepted: int) -> None:
        """Count the drafts of a request in the step that verified them."""
        assert self._lengths is not None, "the model was loaded"
        self._lengths.count(depth, drafted, accepted)

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: Any,
        token_ids_cpu: Any,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Return the drafts of each request of the batch, [] for those without."""
        if self.step is None or not self.is_verified:
            raise RuntimeError("vLLM's runner lacks the hooks of drafts: this is not vLLM 0.32")
        (runner, common), self.step, self.is_verified = self.step, None, False
        rows = self._paying(runner, sampled_token_ids, num_tokens_no_spec)
        generators = runner.input_batch.generators
        noise = {r.place: copy_of(generators[r.place]) for r in rows if r.place in generators}
        while still := [row for row in rows if row.is_open()]:
            self._draft(runner, common, still, noise)
        drafts: list[list[int]] = [[] for _ in sampled_token_ids]
        for row in rows:
            drafts[row.place] = row.drafts
        return drafts

    def _paying(self, runner: Any, sampled: Sequence[Sequence[int]], n_tokens: Any) -> list[_Row]:
        """Return the requests to draft for, none where a step without drafts is faster."""
        now, n = time.monotonic(), len(sampled)
        names = runner.input_batch.req_ids[:n]
        if self._before is not None and self._before[0] == names and all(sampled):
            _, drafted, then = self._before
            n_new = sum(map(len, sampled))
            self._payoff.count(n, drafted=drafted, n_tokens=n_new, seconds=now - then)
        rows = [*self._rows(runner, sampled, n_tokens)]
        if rows and not self._payoff.pays(n):
            rows = []
        self._before = names, bool(rows), now
        return rows

    def _rows(self, runner: Any, sampled: Sequence[Sequence[int]], n_tokens: Any) -> Iterator[_Row]:
        """Yield the requests to draft for."""
        batch, default = runner.input_batch, self._model.latent_depth
        assert self._lengths is not None, "the model was loaded"
        states = [runner.requests[name] for name in batch.req_ids[: len(sampled)]]
        depths = [requested_depth(state.sampling_params, default) for state in states]
        lengths = self._lengths.of_step(depths)
        for place, (own, state, length) in enumerate(zip(sampled, states, lengths, strict=True)):
            params, n = state.sampling_params, int(n_tokens[place])
            has_noise = params.temperature < _GREEDY or place in batch.generators
            if not (own and length and has_noise) or params.thinking_token_budget:
                continue
            possible = min(
                length,
                runner.max_model_len - n - 1,
                params.max_tokens - len(state.output_token_ids) - 1,
                _n_slots(batch, place) - n + 1,
            )
            if possible > 0:
                yield _Row(place, n, possible, _ends(params), own[-1], [])

    def _draft(
        self, runner: Any, common: Any, rows: list[_Row], noise: dict[int, torch.Generator]
    ) -> None:
        """Add a draft to each of these requests."""
        n, device = len(rows), runner.device
        positions = [row.position for row in rows]
        with _forward_context(runner, common, [row.place for row in rows], positions):
            hidden = self._model(
                on_device([row.last for row in rows], torch.int32, device),
                on_device(positions, torch.long, device),
                batch=LatentBatch((self._depth,) * n, tuple(range(n + 1))),
            )
        found = drafted_tokens(
            runner.sampler,
            self._model.compute_logits(hidden),
            runner.input_batch.sampling_metadata,
            [row.place for row in rows],
            [row.drafts for row in rows],
            {i: noise[row.place] for i, row in enumerate(rows) if row.place in noise},
        )
        for row, token in zip(rows, found, strict=True):
            row.drafts.append(token)
            row.last = token


def _ends(params: Any) -> frozenset[int]:
    """Return the tokens that end a request; vLLM has no `eos_token_id` where it is ignored."""
    eos = () if params.eos_token_id is None else (params.eos_token_id,)
    return frozenset((*(params.stop_token_ids or ()), *eos))


def _n_slots(batch: Any, place: int) -> int:
    """Return the positions for which a request has blocks of the KV cache."""
    tables = batch.block_table.block_tables
    return min(int(t.num_blocks_per_row[place] * t.block_size) for t in tables)


@contextmanager
def _forward_context(
    runner: Any, common: Any, places: list[int], positions: list[int]
) -> Iterator[None]:
    """Set vLLM's forward context for one token of each of these requests of the step."""
    from vllm.forward_context import set_forward_context

    metadata: dict[str, Any] = {}
    slots: dict[str, torch.Tensor] = {}
    for group_id, groups in enumerate(runner.attn_groups):
        own = _of_tokens(runner, common, group_id, places, positions)
        for group in groups:
            metadata |= dict.fromkeys(group.layer_names, group.build_metadata(own))
            slots |= dict.fromkeys(group.layer_names, own.slot_mapping)
    with set_forward_context(
        metadata, runner.vllm_config, num_tokens=len(places), slot_mapping=slots
    ):
        yield


def _of_tokens(
    runner: Any, common: Any, group_id: int, places: list[int], positions: list[int]
) -> Any:
    """Return vLLM's CommonAttentionMetadata of a step with one token of each of these requests."""
    table, device = runner.input_batch.block_table[group_id], runner.device
    at = on_device(places, torch.long, device)
    blocks = np.asarray(positions) // table.block_size
    first = table.block_table.np[places, blocks].astype(np.int64) * table.block_size
    slots = first + np.asarray(positions) % table.block_size
    lengths = [position + 1 for position in positions]
    starts = range(len(places) + 1)
    values = {
        name: value[at.to(value.device)] if isinstance(value, torch.Tensor) else value
        for name in PER_REQUEST
        if (value := getattr(common, name)) is not None
    }
    kind = common.query_start_loc.dtype
    return dataclasses.replace(
        common,
        **values
        | {
            "query_start_loc": on_device(starts, kind, device),
            "query_start_loc_cpu": torch.tensor(starts, dtype=kind),
            "seq_lens": on_device(lengths, common.seq_lens.dtype, device),
            "seq_lens_cpu_upper_bound": torch.tensor(lengths, dtype=torch.int32),
            "is_prefilling": torch.zeros(len(places), dtype=torch.bool),
            "num_reqs": len(places),
            "num_actual_tokens": len(places),
            "max_query_len": 1,
            "max_seq_len": max(lengths),
            "block_table_tensor": table.get_device_tensor(common.num_reqs)[at],
            "slot_mapping": on_device(slots.tolist(), torch.long, device),
            "positions": on_device(positions, torch.long, device),
            "_num_computed_tokens_cache": None,
            "_token_to_req_indices_cache": None,
        },
    )


def install() -> None:
    """Wrap the methods of vLLM that drafts need; may be called again.

    - V1's runner samples a step by `noise`, and gives the proposer its step.
    - It asks the proposer in every step: vLLM leaves out all requests when one is near the end of
      its context, and then gives each of them drafts of token 0.
    - The scheduler reserves slots of the KV cache for the drafts.
    """
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if getattr(GPUModelRunner._sample, "drafts", False):
        return
    for name, wrapped in (
        ("_sample", _sampling),
        ("_input_fits_in_drafter", _fitting),
        ("propose_draft_token_ids", _proposing),
    ):
        setattr(GPUModelRunner, name, _for_ours(getattr(GPUModelRunner, name), wrapped))
    stock = VllmConfig.num_lookahead_tokens.fget

    def num_lookahead_tokens(config: Any) -> int:
        return int(config.num_speculative_tokens if is_ours(config) else stock(config))

    VllmConfig.num_lookahead_tokens = property(num_lookahead_tokens)


def is_ours(vllm_config: Any) -> bool:
    """Return whether an engine drafts with `DepthProposer`."""
    config = vllm_config.speculative_config
    return config is not None and config.model == f"{__name__}.{DepthProposer.__name__}"


def _for_ours(stock: Callable[..., Any], wrapped: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def method(runner: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(getattr(runner, "drafter", None), DepthProposer):
            return wrapped(stock, runner, *arguments, **named)
        return stock(runner, *arguments, **named)

    method.drafts = True  # type: ignore[attr-defined]  # a mark for the next call
    return method


def _sampling(stock: Any, runner: Any, logits: Any, spec_decode_metadata: Any) -> Any:
    """Return a step's tokens, sampled with the noise of each position."""
    runner.drafter.is_verified = True
    batch = runner.input_batch
    metadata = batch.sampling_metadata
    if metadata.thinking_budget_state_holder is not None:
        # requests with a budget have no drafts
        metadata.thinking_budget_state_holder.in_spec_mode = False
    drafts = [
        own[:n]
        for own, n in zip(batch.spec_token_ids, spec_decode_metadata.num_draft_tokens, strict=False)
    ]
    if not any(drafts):
        return runner.sampler(logits=logits, sampling_metadata=metadata)
    output, n_kept = verified(runner.sampler, logits, metadata, drafts)
    model = runner.get_model()
    for name, own, n in zip(batch.req_ids, drafts, n_kept, strict=False):
        if own:
            depth = requested_depth(runner.requests[name].sampling_params, model.latent_depth)
            runner.drafter.count(depth, len(own), n)
            model.loop.count_drafts(name, len(own), n)
    return output


def _fitting(stock: Any, runner: Any, common_attn_metadata: Any) -> bool:
    """Return that the proposer may be asked: it looks at the end of each context itself."""
    return common_attn_metadata is not None


def _proposing(stock: Any, runner: Any, *arguments: Any, **named: Any) -> Any:
    """Give the proposer the step whose tokens have just been sampled."""
    common = named.get("common_attn_metadata", arguments[7] if len(arguments) > 7 else None)
    runner.drafter.step = runner, common
    return stock(runner, *arguments, **named)
