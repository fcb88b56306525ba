"""What a model can do before it is trained: look back, and match what it sees with the facts.

The one rule: these only set first values, in place, which training may change like all others.
Every embedding has a constant in dimension 0, and in dimension 1 whether its word is what a fact is
about ("Gus:"); such a word begins as its twin ("Gus") otherwise. Callers hold `torch.no_grad`.
"""

import torch
from looped import LoopedModel
from torch import nn
from vocabulary import Language


def look_back(looped: LoopedModel, language: Language, n_looks: int) -> None:
    """Let the first heads of layer 0 begin by looking at the previous tokens, head 0 one back, head
    1 two: learning that from scratch takes hundreds of steps.

    Query and key read the constant alone, a rotation by the distance apart, in the fastest
    frequencies: their product is the largest that many tokens back.
    """
    embedding, attention = looped.model.embed_tokens.weight, looped.model.layers[0].self_attn
    nn.init.normal_(embedding, std=0.5)
    names = [language.ids[word] for word in language.twins]
    subjects = [language.ids[f"{word}:"] for word in language.twins]
    embedding[subjects] = embedding[names]
    if language.rounds:
        _go_round(embedding, language)
    embedding[:, :2] = 2.0
    embedding[subjects, 1] = -2.0
    half, n_fast, gain = looped.shape.head_dim // 2, 5, 2.0
    angles = looped.shape.theta ** (-torch.arange(n_fast) / half)
    for distance in range(1, n_looks + 1):
        first = 2 * half * (distance - 1)
        for projection, turn in ((attention.q_proj, 0.0), (attention.k_proj, float(distance))):
            weight = projection.weight[first : first + 2 * half]
            weight[:] = 0.0
            weight[:n_fast, 0] = gain * torch.cos(turn * angles)
            weight[half : half + n_fast, 0] = gain * torch.sin(turn * angles)


def _go_round(embedding: nn.Parameter, language: Language) -> None:
    """Let words that stand on a round, as hours do, begin as points of circles in five planes, as
    far round the k-th as k times their share: sums are then turns.
    """
    width, n_planes = embedding.shape[1], 5
    planes = (
        torch.linalg.qr(torch.randn(width, 2 * n_planes))[0].T * 0.5 * (width / n_planes) ** 0.5
    )
    turns = torch.arange(1, n_planes + 1) * 2 * torch.pi
    for word, share in language.rounds.items():
        place = torch.cat(((turns * share).cos(), (turns * share).sin()))
        embedding[language.ids[word]] = place @ planes


def match_resemblance(looped: LoopedModel) -> None:
    """Let the think layer begin by looking for what resembles the state, and copying it."""
    attention = looped.model.layers[1].self_attn
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def match_subjects(looped: LoopedModel) -> None:
    """Let two heads of the think layer begin by finding the fact about the previous word.

    Head 0 of layer 0 copies the previous word, through one set of directions (`read`), into others
    (`write`), with the mark of a fact's subject as the last of them. In the think layer query and
    key compare the copies, in the slow frequencies, which positions hardly turn; the mark keeps
    what is no fact out, the token itself first of all. What the facts found say next to the subject
    goes the same way into the same directions. Three kinds of puzzles left the first plateau after
    100 steps with it, and were still there after 200 with `match_resemblance`.
    """
    width, size = looped.shape.width, looped.shape.head_dim
    basis = torch.linalg.qr(torch.randn(width - 2, width - 2))[0]
    read, write = torch.zeros(size, width), torch.zeros(width, size)
    read[:-1, 2:], write[2:] = basis[: size - 1], basis[size : 2 * size].T
    reading, thinking = (looped.model.layers[i].self_attn for i in (0, 1))
    reading.v_proj.weight[:size] = read
    reading.v_proj.weight[size - 1, 1] = 1.0
    reading.o_proj.weight[:, :size] = 2.0 * write
    half = size // 2
    slow = torch.tensor([*range(half // 2, half - 1), *range(half + half // 2, size - 1)])
    for head in (0, 1):
        rows = slice(head * size, (head + 1) * size)
        compared = write.T[head * len(slow) : (head + 1) * len(slow)]
        for projection in (thinking.q_proj, thinking.k_proj):
            projection.weight[rows] = 0.0
            projection.weight[head * size + slow] = 1.5 * compared
        marked = head * size + half - 1  # the slowest frequency
        thinking.q_proj.weight[marked, 0] = 1.5
        thinking.k_proj.weight[marked] = -1.5 * write[:, -1]
        thinking.v_proj.weight[rows] = read
        thinking.o_proj.weight[:, rows] = 0.75 * write
