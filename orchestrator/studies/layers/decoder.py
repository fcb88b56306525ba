"""A decoder that runs under any order of its layers, in plain PyTorch.

It returns greedy and sampled replies, likelihoods and residual streams. The one rule: weights are
never copied or changed. An order is a list of shallow copies of the layers, one per visit, each
with its own KV slot. The model's own list of layers is restored when the call ends. This is for
measurements on few prompts; `orchestrator.engines.vllm.latent` is for serving. Imports torch and
transformers, so import it late (`orchestrator.studies.layers.loading` reports what to install if
they are missing).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache

from orchestrator.core.errors import PlanError
from orchestrator.core.values import Message, Prompt
from orchestrator.studies.layers.scoring import Completion

# Families with the forward pass embed, layers, norm, head, in which layers know their position by
# `self_attn.layer_idx` alone. The tests compare each family with its stock model. The kind of
# attention of a layer is read from the configuration, by position.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # engines run their schedules, too


class Decoder:
    """A model and its tokenizer.

    Not thread-safe: a call rearranges the model while it runs.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Wrap a causal language model of transformers; PlanError for an unsupported family."""
        family = model.config.model_type
        if family not in FAMILIES:
            raise PlanError(
                f"models of the family {family!r} cannot be rearranged here; families covered: "
                f"{', '.join(FAMILIES)}"
            )
        self._model = model.eval()
        self._base = model.model
        self._tokenizer = tokenizer
        self._layers = list(model.model.layers)
        self._ends = _end_ids(model, tokenizer)

    @property
    def n_layers(self) -> int:
        """Return the number of layers of the model."""
        return len(self._layers)

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return a prompt as the engines render it: in the chat template if the model has one."""
        if getattr(self._tokenizer, "chat_template", None):
            messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
            chat = [{"role": m.role, "content": m.content} for m in messages]
            text = self._tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True
            )
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt))
        raise PlanError(
            "this model has no chat template: it takes plain prompts, "
            "not messages and no sampling.system"
        )

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return a plain text as token ids, without special tokens."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Return the greedy continuation of each prompt with the layers in this order."""
        return self._replies(prompts, order, max_new_tokens, stop, lambda logits: logits.argmax(-1))

    def drawn(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """Return a continuation of each prompt, sampled from the whole vocabulary.

        The temperature must be above 0. The seed makes the result reproducible.
        """
        generator = torch.Generator(self._model.device).manual_seed(seed)

        def draw(logits: Any) -> Any:
            shares = torch.softmax(logits.float() / temperature, -1)
            return torch.multinomial(shares, 1, generator=generator)[:, 0]

        return self._replies(prompts, order, max_new_tokens, stop, draw)

    def token_logprobs(
        self, windows: Sequence[Sequence[int]], order: Sequence[int]
    ) -> list[list[float]]:
        """Return the log-probability of each token of a window except the first.

        The layers run in this order. All windows have the same length.
        """
        with self._arranged(self._visits(order), order):
            return self._logprobs(windows)

    def damped_logprobs(
        self,
        windows: Sequence[Sequence[int]],
        head: Sequence[int],
        think: Sequence[int],
        tail: Sequence[int],
        n_steps: int,
    ) -> list[list[float]]:
        """Return `token_logprobs` with the think block g run in `n_steps` damped steps.

        A step is x <- x + (g(x) - x) / n_steps, the loop for frozen models of arXiv 2605.23872.
        Raises PlanError when the block's layers use different kinds of attention, because the model
        passes a single mask to a block.
        """
        order = (*head, *tuple(think) * n_steps, *tail)
        kinds = getattr(self._base.config, "layer_types", None)
        if kinds and len(set(kinds)) > 1:
            raise PlanError(
                "damped loops need layers of one kind of attention; "
                "this model mixes full and sliding attention"
            )
        visits = self._visits(order)
        blocks = visits[len(head) : len(head) + n_steps * len(think)]
        block = _Damped([blocks[i : i + len(think)] for i in range(0, len(blocks), len(think))])
        with self._arranged(
            [*visits[: len(head)], block, *visits[len(visits) - len(tail) :]], order
        ):
            return self._logprobs(windows)

    def streams(self, window: Sequence[int]) -> Any:
        """Return the residual stream before the first layer and after each, as the model ships.

        The shape is (n_layers + 1, n_tokens, width).
        """
        kept: list[Any] = []
        hooks = [self._layers[0].register_forward_pre_hook(lambda _, args: kept.append(args[0]))]
        hooks += [
            layer.register_forward_hook(lambda _module, _args, output: kept.append(output))
            for layer in self._layers
        ]
        try:
            with torch.inference_mode():
                self._base(input_ids=self._ids([window]), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(kept)

    def _logprobs(self, windows: Sequence[Sequence[int]]) -> list[list[float]]:
        logprobs: list[list[float]] = []
        with torch.inference_mode():
            # one by one, because the logits of a window use the most memory
            for window in windows:
                ids = self._ids([window])
                logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                chosen = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])
                logprobs.append(chosen[:, 0].tolist())
        return logprobs

    def _replies(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str],
        choose: Callable[[Any], Any],
    ) -> list[Completion]:
        written: list[list[int]] = [[] for _ in prompts]
        done: list[Completion | None] = [None] * len(prompts)
        with self._arranged(self._visits(order), order), torch.inference_mode():
            batch = _Batch(self._base.config, prompts, self._model.device)
            logits = batch.read(self._model)
            for step in range(max_new_tokens):
                tokens = choose(logits).tolist()
                for row, token in zip(batch.rows, tokens, strict=True):
                    written[row].append(token)
                    done[row] = self._ended(written[row], stop)
                keep = [i for i, row in enumerate(batch.rows) if done[row] is None]
                if not keep or step == max_new_tokens - 1:
                    break
                batch.keep(keep)
                logits = batch.step(self._model, [tokens[i] for i in keep])
        cut = (Completion(self._text(ids), finished=False) for ids in written)
        return [completion or rest for completion, rest in zip(done, cut, strict=True)]

    def _ended(self, ids: Sequence[int], stop: Sequence[str]) -> Completion | None:
        if ids[-1] in self._ends:
            return Completion(self._text(ids[:-1]), finished=True)
        text = self._text(ids) if stop else ""
        places = [at for at in (text.find(end) for end in stop) if at >= 0]
        return Completion(text[: min(places)], finished=True) if places else None

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, rows: Sequence[Sequence[int]]) -> Any:
        return torch.tensor([list(row) for row in rows], device=self._model.device)

    def _visits(self, order: Sequence[int]) -> list[Any]:
        """Return a shallow copy of the layer for each visit, each with its own KV slot."""
        if not order or not 0 <= min(order) <= max(order) < self.n_layers:
            raise PlanError(
                f"the order of layers {list(order)} does not fit; "
                f"the model has {self.n_layers} layers, 0 to {self.n_layers - 1}"
            )
        return [_visit(self._layers[index], slot) for slot, index in enumerate(order)]

    @contextlib.contextmanager
    def _arranged(self, modules: Sequence[Any], order: Sequence[int]) -> Iterator[None]:
        """Let the model run these modules within the block; they visit layers in this order."""
        config = copy.copy(self._base.config)
        config.num_hidden_layers = len(order)
        kinds = getattr(config, "layer_types", None)
        if kinds:
            config.layer_types = [kinds[index] for index in order]
        original, self._base.config = self._base.config, config
        self._base.layers = torch.nn.ModuleList(modules)
        try:
            yield
        finally:
            self._base.layers = torch.nn.ModuleList(self._layers)
            self._base.config = original


class _Damped(torch.nn.Module):  # type: ignore[misc]  # torch's annotations are not read
    """Several visits of one block, each of which applies its share of a whole step to the state."""

    def __init__(self, blocks: Sequence[Sequence[Any]]) -> None:
        super().__init__()
        # plain lists, because the layers belong to the model
        self._blocks = [list(block) for block in blocks]

    def forward(self, hidden: Any, **context: Any) -> Any:
        """Return the state after all steps."""
        for block in self._blocks:
            moved = hidden
            for layer in block:
                moved = layer(moved, **context)
            hidden = hidden + (moved - hidden) / len(self._blocks)
        return hidden


class _Batch:
    """Prompts with continuations in progress.

    Their shared prefix is read once, and the rest is left-padded. Finished rows are removed.
    """

    def __init__(self, config: Any, prompts: Sequence[Sequence[int]], device: Any) -> None:
        self.rows = list(range(len(prompts)))
        self._device = device
        self._cache = DynamicCache(config=config)
        self._shared = list(prompts[0][: _n_shared(prompts)])
        rest = [list(prompt[len(self._shared) :]) for prompt in prompts]
        width = max(map(len, rest))
        window = getattr(config, "sliding_window", None)
        if window and len(self._shared) + width > window:
            raise PlanError(
                f"prompts of {len(self._shared) + width} tokens go beyond this model's sliding "
                f"window of {window}; shorten them"
            )
        n = len(self._shared)
        self._pending = torch.tensor(
            [[0] * (width - len(row)) + row for row in rest], device=device
        )
        self._mask = torch.tensor(
            [[1] * n + [0] * (width - len(row)) + [1] * len(row) for row in rest], device=device
        )
        # the position of each row's next token
        self._at = torch.tensor([[n + len(row)] for row in rest], device=device)

    def read(self, model: Any) -> Any:
        """Return the logits after the prompts, shape (n_rows, n_words)."""
        if self._shared:
            model(
                input_ids=torch.tensor([self._shared], device=self._device),
                past_key_values=self._cache,
                logits_to_keep=1,
            )
            self._cache.batch_repeat_interleave(len(self.rows))
        places = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, len(self._shared) :]
        return self._forward(model, self._pending, places)

    def keep(self, indices: Sequence[int]) -> None:
        """Keep these rows and drop the others."""
        if len(indices) == len(self.rows):
            return
        chosen = torch.tensor(indices, device=self._device)
        self.rows = [self.rows[i] for i in indices]
        self._mask, self._at = self._mask[chosen], self._at[chosen]
        self._cache.batch_select_indices(chosen)

    def step(self, model: Any, tokens: Sequence[int]) -> Any:
        """Return the logits after one more token in each row."""
        ids = torch.tensor(tokens, device=self._device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], -1)
        logits = self._forward(model, ids, self._at)
        self._at = self._at + 1
        return logits

    def _forward(self, model: Any, ids: Any, places: Any) -> Any:
        output = model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=places,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def angular_distances(streams: Any) -> list[float]:
    """Return arccos(cos) / pi between each stream and the next, averaged over tokens.

    Values are in [0, 1], of shape (n_streams - 1,).
    """
    directions = torch.nn.functional.normalize(streams.double(), dim=-1)
    cosines = (directions[:-1] * directions[1:]).sum(-1).clamp(-1, 1)
    return (torch.arccos(cosines) / torch.pi).mean(-1).tolist()  # type: ignore[no-any-return]  # torch's annotations are not read


def _visit(layer: Any, slot: int) -> Any:
    """Return a copy of a layer that shares all weights and stores keys and values in this slot."""
    twin = copy.copy(layer)
    twin._modules = dict(layer._modules)
    twin.self_attn = copy.copy(layer.self_attn)
    twin.self_attn.layer_idx = slot
    return twin


def _n_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the prefix that all prompts share, always shorter than each prompt."""
    limit = min(map(len, prompts)) - 1
    n = 0
    while n < limit and all(a[n] == b[n] for a, b in pairwise(prompts)):
        n += 1
    return n


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    sources = [
        getattr(model.generation_config, "eos_token_id", None),
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ]
    return frozenset(
        id
        for item in sources
        if item is not None
        for id in (item if isinstance(item, list) else [item])
    )
