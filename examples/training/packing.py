"""Many questions about one puzzle in one sequence, as tensors.

The one rule: a question sees the facts and its own tokens, at the positions it would have alone, so
packing changes no result; it makes one reading of the facts serve all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from kinds.puzzle import Kind, Walk, draw_puzzle, draw_route, found
from recipes import Recipe, Stage
from torch import Tensor
from vocabulary import END, PAD, Language

NOTHING = -100  # no label here: cross-entropy ignores it


@dataclass(slots=True)
class PackedRow:
    """One sequence of words. `owner` is 0 for facts, k for the k-th question; the other lists run
    beside `words`.
    """

    words: list[str] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    # label where a stride was read: what stands for the place it leads to, or the answer
    found: list[str | None] = field(default_factory=list)
    form: list[str | None] = field(default_factory=list)  # label elsewhere: a stride, or the end
    hops: list[int] = field(default_factory=list)  # of `found`: how many
    # at a stride: what stands for each place on the way, one a hop
    way: list[tuple[tuple[str, ...], ...]] = field(default_factory=list)

    def add(self, word: str, owner: int, position: int) -> None:
        self.words.append(word)
        self.owner.append(owner)
        self.position.append(position)
        self.found.append(None)
        self.form.append(None)
        self.hops.append(0)
        self.way.append(())


def facts_row(words: Sequence[str]) -> PackedRow:
    """Return the facts as a row that awaits questions."""
    row = PackedRow()
    for i, word in enumerate(words):
        row.add(word, 0, i)
    return row


def add_question(
    row: PackedRow,
    language: Language,
    walk: Walk,
    start: int,
    route: Sequence[tuple[int, int]],
    written: bool,
) -> None:
    """Append a question and its completion.

    Strides get labels only if `written` as completions write them.
    """
    owner, position = row.owner[-1] + 1, row.owner.count(0)
    for word in walk.question(start):
        row.add(word, owner, position)
        position += 1
    place = start
    for stride, goal in route:
        step = language.steps[stride - 1]
        row.form[-1] = step if written else None
        row.add(step, owner, position)
        row.way[-1] = tuple(walk.passed(start, passed) for passed in range(place + 1, goal + 1))
        for word in found(walk, start, goal):
            row.found[-1], row.hops[-1] = word, goal - place
            position += 1
            row.add(word, owner, position)
        position += 1
        place = goal
    row.form[-1] = END


def training_row(
    rng: Random, recipe: Recipe, kind: Kind, n_hops: int, n_walks: int, practice: float, length: int
) -> PackedRow:
    """Return facts and as many questions as fit `length` tokens; a share `practice` of them has
    strides from 1.
    """
    puzzle = draw_puzzle(kind, rng, n_hops, n_walks, held_out=False)
    row = facts_row(puzzle.words())
    short = range(1, min(n_hops, recipe.longest_practice) + 1)
    while True:
        walk = rng.choice(puzzle.walks)
        # Of two starts the farther: many hops are what is to be learnt.
        start = min(rng.randrange(n_hops), rng.randrange(n_hops))
        practised = rng.random() < practice
        route = draw_route(rng, n_hops, start, short if practised else recipe.strides)
        n_own = len(walk.question(start)) + sum(1 + len(found(walk, start, g)) for _, g in route)
        if len(row.words) + n_own > length:
            return row
        add_question(row, recipe.language, walk, start, route, not practised)


def training_rows(rng: Random, recipe: Recipe, stage: Stage, n_hops: int) -> list[PackedRow]:
    """Return the rows of a batch, kinds in turn, of about equal length."""
    length = stage.room_for + max(
        kind.n_words(n_hops, n_walks)
        for kind, n_walks in zip(recipe.kinds, stage.n_walks, strict=True)
    )
    rows = []
    for i in range(stage.n_rows):
        which = i % len(recipe.kinds)
        rows.append(
            training_row(
                rng,
                recipe,
                recipe.kinds[which],
                n_hops,
                stage.n_walks[which],
                stage.practice,
                length,
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors, padded on the right; a pad sees the facts and is seen by nobody."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    found: Tensor
    form: Tensor
    hops: Tensor
    # (batch, length, hops that are traced, words that stand for a place); beyond the last hop it
    # stays at the goal, and is NOTHING where no stride was read or fewer words stand
    way: Tensor


def collate(rows: Sequence[PackedRow], recipe: Recipe, device: str = "cpu") -> Batch:
    """Return rows as one batch."""
    length, ids = max(len(row.words) for row in rows), recipe.language.ids

    def padded(columns: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor(
            [[*column, *[fill] * (length - len(column))] for column in columns], device=device
        )

    def labels(columns: Sequence[Sequence[str | None]]) -> Tensor:
        return padded([[NOTHING if w is None else ids[w] for w in c] for c in columns], NOTHING)

    nowhere = ((NOTHING,) * recipe.n_streams,) * recipe.n_traced

    def traced(way: tuple[tuple[str, ...], ...]) -> tuple[tuple[int, ...], ...]:
        if not way:
            return nowhere
        passed = (way + way[-1:] * recipe.n_traced)[: recipe.n_traced]
        lacking = (NOTHING,) * recipe.n_streams
        return tuple((*(ids[w] for w in words), *lacking)[: recipe.n_streams] for words in passed)

    ways = [[*map(traced, row.way), *[nowhere] * (length - len(row.way))] for row in rows]
    return Batch(
        padded([[ids[word] for word in row.words] for row in rows], ids[PAD]),
        padded([row.position for row in rows], 0),
        visible(padded([row.owner for row in rows], -1)),
        labels([row.found for row in rows]),
        labels([row.form for row in rows]),
        padded([row.hops for row in rows], 0),
        torch.tensor(ways, device=device),
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
