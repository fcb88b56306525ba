"""Many questions about one puzzle in one sequence, as tensors.

The one rule: a question sees the facts and its own tokens, at the positions it would have alone, so
packing changes no result; it makes one reading of the facts serve all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from puzzles import MAX_STRIDE, ROOMS, STRIDES, Puzzle, draw_puzzle, draw_route
from torch import Tensor
from vocabulary import ANSWERS, ASK, END, ID, PAD, STEPS

NOTHING = -100  # no label here: cross-entropy ignores it


@dataclass(slots=True)
class PackedRow:
    """One sequence. `owner` is 0 for facts, k for the k-th question; the other lists run beside
    `ids`.
    """

    ids: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    # label where a stride was read: the person or the answer
    found: list[int] = field(default_factory=list)
    form: list[int] = field(default_factory=list)  # label elsewhere: which stride, or the end
    hops: list[int] = field(default_factory=list)  # of `found`: how many
    # of `found`: what is passed on the way, one a hop
    way: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, token: int, owner: int, position: int) -> None:
        self.ids.append(token)
        self.owner.append(owner)
        self.position.append(position)
        self.found.append(NOTHING)
        self.form.append(NOTHING)
        self.hops.append(0)
        self.way.append(())


def facts_row(puzzle: Puzzle) -> PackedRow:
    """Return the facts as a row that awaits questions."""
    row = PackedRow()
    for i, word in enumerate(word for who, goal in puzzle.facts for word in (f"{who}:", goal)):
        row.add(ID[word], 0, i)
    return row


def add_question(
    row: PackedRow,
    n_facts: int,
    chain: Sequence[str],
    start: int,
    route: list[tuple[int, int]],
    written: bool,
) -> None:
    """Append a question and its completion.

    Strides get labels only if `written` as completions write them.
    """
    owner = row.owner[-1] + 1
    words = [ASK, chain[start]]
    place = start
    for i, word in enumerate(words):
        row.add(ID[word], owner, n_facts + i)
    for stride, goal in route:
        position = row.position[-1]
        row.form[-1] = ID[STEPS[stride - 1]] if written else NOTHING
        row.add(ID[STEPS[stride - 1]], owner, position + 1)
        word = chain[goal] if goal < len(chain) - 1 else ANSWERS[ROOMS.index(chain[-1])]
        row.found[-1], row.hops[-1] = ID[word], goal - place
        row.way[-1] = tuple(ID[w] for w in chain[place + 1 : goal + 1])
        row.add(ID[word], owner, position + 2)
        place = goal
    row.form[-1] = ID[END]


def training_row(
    rng: Random, n_chains: int, n_hops: int, room_for: int, practice: float
) -> PackedRow:
    """Return facts and as many questions as fit `room_for` tokens; a share `practice` of them has
    strides from 1.
    """
    puzzle = draw_puzzle(rng, n_hops, held_out=False, n_chains=n_chains)
    row = facts_row(puzzle)
    n_facts = len(row.ids)
    while True:
        chain = rng.choice(puzzle.chains)
        # Of two starts the farther: many hops are what is to be learnt.
        start = min(rng.randrange(n_hops), rng.randrange(n_hops))
        practised = rng.random() < practice
        route = draw_route(
            rng, chain, start, range(1, min(n_hops, MAX_STRIDE) + 1) if practised else STRIDES
        )
        if len(row.ids) + 2 + 2 * len(route) > n_facts + room_for:
            return row
        add_question(row, n_facts, chain, start, route, not practised)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors, padded on the right; a pad sees the facts and is seen by nobody."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    found: Tensor
    form: Tensor
    hops: Tensor
    way: Tensor  # (batch, length, MAX_STRIDE); beyond the last hop it stays at the goal


def collate(rows: Sequence[PackedRow], device: str = "cpu") -> Batch:
    """Return rows as one batch."""
    length = max(len(row.ids) for row in rows)

    def padded(name: str, fill: int) -> Tensor:
        return torch.tensor(
            [getattr(row, name) + [fill] * (length - len(row.ids)) for row in rows], device=device
        )

    nowhere = (NOTHING,) * MAX_STRIDE
    ways = [
        [(way + way[-1:] * MAX_STRIDE)[:MAX_STRIDE] if way else nowhere for way in row.way]
        for row in rows
    ]
    way = torch.tensor([w + [nowhere] * (length - len(w)) for w in ways], device=device)
    owner = padded("owner", -1)
    mask = visible(owner)
    return Batch(
        padded("ids", ID[PAD]),
        padded("position", 0),
        mask,
        padded("found", NOTHING),
        padded("form", NOTHING),
        padded("hops", 0),
        way,
    )


def visible(owner: Tensor) -> Tensor:
    """Return the additive mask (batch, 1, length, length) of who may look at whom: earlier facts
    and earlier tokens of one's own.
    """
    earlier = torch.ones(
        owner.shape[1], owner.shape[1], dtype=torch.bool, device=owner.device
    ).tril()
    allowed = ((owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])) & earlier
    return torch.zeros(allowed.shape, device=owner.device).masked_fill(~allowed, float("-inf"))[
        :, None
    ]
