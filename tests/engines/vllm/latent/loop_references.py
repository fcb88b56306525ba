"""Ouro- and Huginn-shaped reference models in plain PyTorch, from the papers' equations.

The one rule: everything is recomputed from the token ids, without a cache, in float32, one sequence
at a time. A token that has run its own number of iterations keeps its state, and the others see the
keys and values of its last iteration: the authors' lookup of the "latest" cache entry (Huginn,
arXiv 2502.05171, section 6.1). With equal depths that rule has no effect. Not covered: dropout,
padding, sliding windows, other rotary scalings. Nothing here imports the plugin under test.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Weights = Mapping[str, Tensor]
KeysValues = tuple[Tensor, Tensor]


class Ouro:
    """The whole stack, looped; the final norm ends every loop (arXiv 2510.25741, section 3.1).

    `weights` has the checkpoint's names.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self.config, self.weights = config, weights
        self.n_core = int(config["num_hidden_layers"])
        self.rotate = _rotation(
            int(config["head_dim"]), float(config["rope_theta"]), interleaved=False
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embedding, from which the state starts.

        Every iteration may read it, but does not here.
        """
        return self.weights["model.embed_tokens.weight"][ids]

    def first_state(self, embedded: Tensor) -> Tensor:
        """Return s_0."""
        return embedded

    def inject(self, state: Tensor, embedded: Tensor) -> Tensor:
        """Return the input of an iteration's first layer."""
        return state

    def layer(self, index: int, x: Tensor, others: Callable[[KeysValues], KeysValues]) -> Tensor:
        """Return x after one layer, with a norm before and after each of its two parts.

        The norm after a part is inside the residual branch.
        """
        name = f"model.layers.{index}"
        inner = self._norm(x, f"{name}.input_layernorm")
        q, k, v = (
            _linear(inner, self.weights[f"{name}.self_attn.{part}_proj.weight"]) for part in "qkv"
        )
        heads, kv_heads = (
            int(self.config["num_attention_heads"]),
            int(self.config["num_key_value_heads"]),
        )
        mixed = _attention(
            _heads(q, heads), _heads(k, kv_heads), _heads(v, kv_heads), self.rotate, others
        )
        x = x + self._inner_norm(
            _linear(mixed, self.weights[f"{name}.self_attn.o_proj.weight"]),
            f"{name}.input_layernorm_2",
        )
        inner = self._norm(x, f"{name}.post_attention_layernorm")
        gate, up = (
            _linear(inner, self.weights[f"{name}.mlp.{part}_proj.weight"])
            for part in ("gate", "up")
        )
        grown = _linear(F.silu(gate) * up, self.weights[f"{name}.mlp.down_proj.weight"])
        return x + self._inner_norm(grown, f"{name}.post_attention_layernorm_2")

    def close(self, x: Tensor) -> Tensor:
        """Return the state an iteration ends with."""
        return self._norm(x, "model.norm")

    def logits(self, state: Tensor) -> Tensor:
        """Return the next token's logits `(n, vocabulary)` from final states."""
        return _linear(state, self.weights["lm_head.weight"])

    def early_logits(self, early: Tensor, deep: Tensor) -> Tensor:
        """Return the logits from early states; the layers after the block see those of the deep."""
        return self.logits(early)

    def _inner_norm(self, x: Tensor, name: str) -> Tensor:
        return self._norm(x, name)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return _rms_norm(x, self.weights[f"{name}.weight"], float(self.config["rms_norm_eps"]))


class Llama(Ouro):
    """An ordinary decoder that runs its layers `think` depth times, between `head` and `tail`.

    ETD, arXiv 2510.07358.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Weights,
        head: Sequence[int],
        think: Sequence[int],
        tail: Sequence[int],
    ) -> None:
        super().__init__(config, weights)
        self.head, self.think, self.tail = head, think, tail
        self.n_core = len(think)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embedding after the layers of the head."""
        x = super().embed(ids)
        for index in self.head:
            x = super().layer(index, x, _own)
        return x

    def layer(self, index: int, x: Tensor, others: Callable[[KeysValues], KeysValues]) -> Tensor:
        """Return x after one layer of the think block."""
        return super().layer(self.think[index], x, others)

    def close(self, x: Tensor) -> Tensor:
        """Return the state an iteration ends with."""
        return x

    def logits(self, state: Tensor) -> Tensor:
        """Return the next token's logits from the states, after the layers of the tail."""
        for index in self.tail:
            state = super().layer(index, state, _own)
        return super().logits(self._norm(state, "model.norm"))

    def early_logits(self, early: Tensor, deep: Tensor) -> Tensor:
        """Return the logits from early states, which attend to the deep ones' keys and values."""
        for index in self.tail:
            seen: list[KeysValues] = []
            deep = Ouro.layer(self, index, deep, lambda own, to=seen: to.append(own) or own)
            early = Ouro.layer(self, index, early, lambda _, to=seen: to[0])
        return super().logits(self._norm(early, "model.norm"))

    def _inner_norm(self, x: Tensor, name: str) -> Tensor:
        return x


class Huginn:
    """Prelude, core x r with the injection A[s; e], coda (arXiv 2502.05171, section 3).

    `weights` has the checkpoint's names.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights, state_seed: int = 0) -> None:
        self.config, self.weights, self.state_seed = config, weights, state_seed
        self.n_core = int(config["n_layers_in_recurrent_block"])
        self.width = int(config["n_embd"])
        self.rotate = _rotation(
            self.width // int(config["num_attention_heads"]),
            float(config["rope_base"]),
            interleaved=True,
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Return e: the prelude over sqrt(h) times the embedding."""
        x = self.weights["transformer.wte.weight"][ids] * math.sqrt(self.width)
        for index in range(int(self.config["n_layers_in_prelude"])):
            x = self._block(f"transformer.prelude.{index}", x, _own)
        return x

    def first_state(self, embedded: Tensor) -> Tensor:
        """Return s_0: normal with sigma^2 = 2/(5h), truncated at three sigma, times sqrt(h).

        Drawn from the seed and each token's position alone.
        """
        sigma = math.sqrt(2 / (5 * self.width))
        rows = [
            _truncated_normals(self.state_seed, place, self.width) for place in range(len(embedded))
        ]
        return torch.tensor(rows, dtype=torch.float64).mul(sigma * math.sqrt(self.width)).float()

    def inject(self, state: Tensor, embedded: Tensor) -> Tensor:
        """Return A[s; e]."""
        return _linear(
            torch.cat((state, embedded), dim=-1), self.weights["transformer.adapter.weight"]
        )

    def layer(self, index: int, x: Tensor, others: Callable[[KeysValues], KeysValues]) -> Tensor:
        """Return x after one block of the core."""
        return self._block(f"transformer.core_block.{index}", x, others)

    def close(self, x: Tensor) -> Tensor:
        """Return the state an iteration ends with."""
        return x

    def logits(self, state: Tensor) -> Tensor:
        """Return the next token's logits `(n, vocabulary)`.

        The order is norm, coda, the same norm, the tied head.
        """
        x = self._norm(state, "transformer.ln_f")
        for index in range(int(self.config["n_layers_in_coda"])):
            x = self._block(f"transformer.coda.{index}", x, _own)
        return _linear(self._norm(x, "transformer.ln_f"), self.weights["transformer.wte.weight"])

    def early_logits(self, early: Tensor, deep: Tensor) -> Tensor:
        """Return the logits from early states, which attend to the deep ones' keys and values."""
        early, deep = (self._norm(x, "transformer.ln_f") for x in (early, deep))
        for index in range(int(self.config["n_layers_in_coda"])):
            seen: list[KeysValues] = []
            name = f"transformer.coda.{index}"
            deep = self._block(name, deep, lambda own, to=seen: to.append(own) or own)
            early = self._block(name, early, lambda _, to=seen: to[0])
        return _linear(
            self._norm(early, "transformer.ln_f"), self.weights["transformer.wte.weight"]
        )

    def _block(self, name: str, x: Tensor, others: Callable[[KeysValues], KeysValues]) -> Tensor:
        """Return n4(y + MLP(n3 y)) with y = n2(x + Attn(n1 x))."""
        heads = int(self.config["num_attention_heads"])
        q, k, v = _linear(
            self._norm(x, f"{name}.norm_1"), self.weights[f"{name}.attn.Wqkv.weight"]
        ).chunk(3, dim=-1)
        # each (1, heads, head size), added before the rotation
        bias_q, bias_k = self.weights[f"{name}.attn.qk_bias"].unbind(0)
        mixed = _attention(
            _heads(q, heads) + bias_q,
            _heads(k, heads) + bias_k,
            _heads(v, heads),
            self.rotate,
            others,
        )
        y = self._norm(
            x + _linear(mixed, self.weights[f"{name}.attn.proj.weight"]), f"{name}.norm_2"
        )
        gate, up = _linear(
            self._norm(y, f"{name}.norm_3"), self.weights[f"{name}.mlp.fc.weight"]
        ).chunk(2, dim=-1)
        return self._norm(
            y + _linear(F.silu(gate) * up, self.weights[f"{name}.mlp.proj.weight"]),
            f"{name}.norm_4",
        )

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return _rms_norm(x, self.weights[f"{name}.weight"], float(self.config["norm_eps"]))


Model = Ouro | Huginn
# (last iteration, states before, states after) -> mask of tokens that run another, (n,) bool
GoesOn = Callable[[int, Tensor, Tensor], Tensor]


def iterate(
    model: Model, ids: Sequence[int], goes_on: GoesOn, keep: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return every token's final state `(n, width)` and its number of iterations `(n,)`.

    `keep` is the residual refinement's alpha: h_t = alpha h_{t-1} + (1 - alpha) f(h_{t-1}) (arXiv
    2506.08552, section 3.1).
    """
    embedded = model.embed(torch.tensor(ids))
    state = model.first_state(embedded)
    runs = torch.ones(len(ids), dtype=torch.bool)
    taken = torch.zeros(len(ids), dtype=torch.long)
    held: list[KeysValues | None] = [None] * model.n_core
    while bool(runs.any()):
        x = model.inject(state, embedded)
        for index in range(model.n_core):
            x = model.layer(index, x, _latest(held, index, runs))
        after = keep * state + (1 - keep) * model.close(x)
        after = torch.where(runs[:, None], after, state)
        taken += runs
        runs = runs & goes_on(int(taken.max()), state, after)
        state = after
    return state, taken


def at_depths(depths: Sequence[int]) -> GoesOn:
    """Return the rule for tokens that run these numbers of iterations."""
    return lambda done, before, after: torch.tensor(depths) > done


def until_settled(threshold: float, least: int, most: int) -> GoesOn:
    """Return the rule that a token stops when ||s_i - s_{i-1}|| / ||s_i|| < threshold.

    It runs at least `least` and at most `most` iterations.
    """

    def rule(done: int, before: Tensor, after: Tensor) -> Tensor:
        change = (after - before).norm(dim=-1) / after.norm(dim=-1)
        return (
            (torch.full_like(change, done) < least) | (change >= threshold)
            if done < most
            else torch.zeros_like(change, dtype=torch.bool)
        )

    return rule


def until_steady(threshold: float, least: int, most: int) -> GoesOn:
    """Return the rule that a token stops when its steps d_i = s_i - s_{i-1} have settled.

    That is when ||d_i - d_{i-1}|| / ||s_i|| < threshold for two iterations in a row (the
    second-order exit of arXiv 2509.23314, over the norm of the state).
    """
    steps: list[Tensor] = []
    is_small: list[Tensor] = []

    def rule(done: int, before: Tensor, after: Tensor) -> Tensor:
        steps.append(after - before)
        turn = (steps[-1] - steps[-2]).norm(dim=-1) if done > 1 else torch.inf
        is_small.append(turn / after.norm(dim=-1) < threshold)
        settled = is_small[-1] & is_small[-2] if done > 1 else torch.zeros_like(is_small[0])
        return ~settled | torch.tensor(done < least) if done < most else torch.zeros_like(settled)

    return rule


STATE_RULES: Mapping[str, Callable[[float, int, int], GoesOn]] = {
    "state": until_settled,
    "acceleration": until_steady,
}


def generate(
    model: Model, prompt: Sequence[int], n_new: int, depth: int, keep: float = 0.0
) -> list[int]:
    """Return the greedy continuation at one depth."""
    ids = list(prompt)
    for _ in range(n_new):
        state, _ = iterate(model, ids, at_depths([depth] * len(ids)), keep)
        ids.append(int(model.logits(state)[-1].argmax()))
    return ids[len(prompt) :]


def generate_cascaded(
    model: Model, prompt: Sequence[int], n_new: int, cascade: tuple[str, float, int], depth: int
) -> tuple[list[int], list[bool]]:
    """Return the greedy continuation in a cascade, and whether each token is the early prediction.

    The cascade is (rule, threshold, early iteration); all tokens run to the depth.
    """
    rule, threshold, at = cascade
    ids, is_early = list(prompt), []
    for _ in range(n_new):
        deep, _ = iterate(model, ids, at_depths([depth] * len(ids)))
        logits = model.logits(deep)[-1]
        token = deepest = int(logits.argmax())
        if depth > at:
            early, _ = iterate(model, ids, at_depths([at] * len(ids)))
            q = torch.softmax(model.early_logits(early, deep)[-1].double(), -1)
            p = torch.softmax(logits.double(), -1)
            token = int(CASCADES[rule](q, p, threshold).argmax())
        is_early.append(token != deepest)
        ids.append(token)
    return ids[len(prompt) :], is_early


def _token_specific(q: Tensor, p: Tensor, a: float) -> Tensor:
    is_good = [float(p[v]) >= (1 - a) * float(p.max()) for v in range(len(p))]
    lost = sum(float(q[v]) for v in range(len(q)) if not is_good[v])
    return torch.tensor([float(q[v]) * is_good[v] + float(p[v]) * lost for v in range(len(p))])


# what is drawn from, of an early distribution q and a deep one p (arXiv 2405.19261, section 4)
CASCADES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "chow": lambda q, p, a: p if q.max() < 1 - a else q,
    "diff": lambda q, p, a: p if q.max() < p.max() - a else q,
    "opt": lambda q, p, a: p if q.max() < p.max() - a * torch.clamp(p - q, min=0).sum() else q,
    "token": _token_specific,
}


def generate_under(
    model: Model,
    prompt: Sequence[int],
    n_new: int,
    rule: tuple[str, float, int],
    most: int,
) -> tuple[list[int], list[int]]:
    """Return the greedy continuation under an exit rule, and the iterations of all tokens fed.

    The rule is (measure, threshold, least): a token stops at the first iteration from `least` on at
    which the measure says so, or after `most`. By a measure of states, the prompt's tokens stop,
    too; by one of predictions they run `most` (Huginn's zero-shot exit, section 6.1 and the
    authors' evaluation code).
    """
    measure, threshold, least = rule
    ids, depths = list(prompt), [most] * len(prompt)
    for _ in range(n_new):
        if measure in STATE_RULES:
            state, taken = iterate(model, ids, STATE_RULES[measure](threshold, least, most))
            depths = taken.tolist()
        else:
            if len(ids) > len(prompt):
                depths.append(_sure_depth(model, ids, depths, rule, most))
            state, _ = iterate(model, ids, at_depths(depths))
        ids.append(int(model.logits(state)[-1].argmax()))
    return ids[len(prompt) :], depths


def _entropy(logits: Tensor) -> float:
    p = torch.softmax(logits.double(), -1)
    return float(-(p * p.log()).sum())


def _agree(seen: Sequence[Tensor], m: float) -> bool:
    return len(seen) >= m and len({int(logits.argmax()) for logits in seen[-int(m) :]}) == 1


# the logits of the next token from p_1 to p_i, threshold -> whether iteration i may be the last
PREDICTION_RULES: Mapping[str, Callable[[Sequence[Tensor], float], bool]] = {
    "kl": lambda seen, x: (
        kl(seen[-2] if len(seen) > 1 else torch.zeros_like(seen[0]), seen[-1]) < x
    ),
    "entropy": lambda seen, x: _entropy(seen[-1]) < x,
    "agreement": _agree,
}


def kl(p_logits: Tensor, q_logits: Tensor) -> float:
    """Return KL(p || q) of two rows of logits."""
    p, q = torch.log_softmax(p_logits.double(), -1), torch.log_softmax(q_logits.double(), -1)
    return float((p.exp() * (p - q)).sum())


def truncated_normal(seed: int, place: int, column: int) -> float:
    """Return one draw of a unit normal truncated at three sigma.

    It is number `place * 2**20 + column` of SplitMix64's stream from this seed.
    """
    word = _mix(_mix(seed) + ((place << 20) + column + 1) * 0x9E3779B97F4A7C15)
    uniform = ((word >> 40) + 0.5) / 2**24
    tail = NormalDist().cdf(-3)
    return NormalDist().inv_cdf(tail + uniform * (1 - 2 * tail))


@functools.cache
def _truncated_normals(seed: int, place: int, width: int) -> tuple[float, ...]:
    return tuple(truncated_normal(seed, place, column) for column in range(width))


def _mix(word: int) -> int:
    """Return SplitMix64's output function of a 64-bit word.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.
    """
    word &= 2**64 - 1
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def _sure_depth(
    model: Model, ids: list[int], depths: list[int], rule: tuple[str, float, int], most: int
) -> int:
    measure, threshold, least = rule
    seen: list[Tensor] = []
    for depth in range(1, most + 1):
        state, _ = iterate(model, ids, at_depths([*depths, depth]))
        seen.append(model.logits(state)[-1])
        if depth >= least and PREDICTION_RULES[measure](seen, threshold):
            return depth
    return most


def _latest(
    held: list[KeysValues | None], index: int, runs: Tensor
) -> Callable[[KeysValues], KeysValues]:
    """Return the lookup that gives stopped tokens' last keys and values.

    It records those of running tokens.
    """

    def lookup(new: KeysValues) -> KeysValues:
        old = held[index]
        now = (
            new
            if old is None
            else tuple(
                torch.where(runs[:, None, None], n, o) for n, o in zip(new, old, strict=True)
            )
        )
        held[index] = now
        return now

    return lookup


def _own(new: KeysValues) -> KeysValues:
    return new


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotate: Callable[[Tensor], Tensor],
    others: Callable[[KeysValues], KeysValues],
) -> Tensor:
    """Return causal attention `(n, heads * size)` of `(n, heads, size)`.

    Groups of query heads share a key head.
    """
    q = rotate(q)
    k, v = others((rotate(k), v))
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum(
        "hij,jhd->ihd", scores.masked_fill(later, -math.inf).softmax(-1), v
    ).flatten(1)


def _rotation(size: int, base: float, *, interleaved: bool) -> Callable[[Tensor], Tensor]:
    """Return the rotary embedding of `(n, heads, size)` at positions 0..n-1.

    Pairs are neighbours, or half the head apart.
    """
    frequencies = base ** (-torch.arange(0, size, 2) / size)

    def rotate(x: Tensor) -> Tensor:
        angle = (torch.arange(x.shape[0])[:, None] * frequencies)[:, None, :]
        a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
        turned = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
        return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)

    return rotate


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1))


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
