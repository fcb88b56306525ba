"""The puzzles of examples/training can be solved from their texts alone, and the tokenizer reads
back what it has written.
"""

import re
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

KINDS = ("rooms", "clock", "doors")
Facts = dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def recipe(training: SimpleNamespace) -> Any:
    return training.recipes.RECIPES["fathom"]


def room(text: str) -> tuple[str, int]:
    """Return answer and hops of a puzzle of rooms, from its text alone."""
    facts = {
        who: (goal, 0) for who, goal in re.findall(r"(\w+) (?:follows|goes to room) (\w+)\.", text)
    }
    (start,) = re.findall(r"Where does (\w+) end up\?$", text)
    goal, n_hops, _ = followed(facts, start)
    return goal, n_hops


def time_of_day(text: str) -> tuple[str, int]:
    """Return answer and hops of a puzzle of clocks, from its text alone."""
    sentences = re.findall(r"It is (\d+) hours later for (\w+) than (?:for|at) (\w+)\.", text)
    facts = {who: (whom, int(hours)) for hours, who, whom in sentences}
    (start,) = re.findall(r"twelve at home, what time is it for (\w+)\?$", text)
    goal, n_hops, hours = followed(facts, start)
    assert goal == "home"
    return str(hours % 12 or 12), n_hops


def gate(text: str) -> tuple[str, int]:
    """Return answer and hops of a puzzle of doors, from its text alone."""
    ((colour, start),) = re.findall(
        r"Take only (\w+) doors from the (\w+)\. Which gate is it\?$", text
    )
    sentences = re.findall(rf"The {colour} door of the (\w+) leads to (?:the |gate )(\w+)\.", text)
    goal, n_hops, _ = followed({place: (goal, 0) for place, goal in sentences}, start)
    return goal, n_hops


def followed(facts: Facts, start: str) -> tuple[str, int, int]:
    """Return where facts lead, in how many hops, and the sum of their numbers."""
    place, n_hops, total = start, 0, 0
    while place in facts:
        place, number = facts[place]
        n_hops, total = n_hops + 1, total + number
    return place, n_hops, total


SOLVED: dict[str, Callable[[str], tuple[str, int]]] = {
    "rooms": room,
    "clock": time_of_day,
    "doors": gate,
}


def test_a_reader_finds_the_answer_in_as_many_hops_as_the_tag_says(
    training: SimpleNamespace, recipe: Any
) -> None:
    """A wrong answer in the file would count a right model as wrong."""
    rows = list(training.puzzles.draw_problems(recipe, 99, 5, range(2, 13)))
    assert [row["tags"]["kind"] for row in rows[:3]] == list(KINDS)
    for row in rows:
        answer, n_hops = SOLVED[row["tags"]["kind"]](row["prompt"])
        assert (answer, str(n_hops)) == (row["answer"], row["tags"]["hops"])
    assert len({row["id"] for row in rows}) == 99


@pytest.mark.parametrize("which", range(3), ids=KINDS)
def test_the_tokenizer_keeps_what_a_puzzle_and_a_completion_say(
    training: SimpleNamespace, recipe: Any, which: int
) -> None:
    """Facts and questions are the words of their kind, and what is decoded reads as the same."""
    tokenizer = training.export.tokenizer(recipe.language)
    for seed in range(20):
        rng = Random(seed)
        puzzle = training.kinds.draw_puzzle(
            recipe.kinds[which], rng, 12, recipe.n_walks[which], held_out=True
        )
        walk = rng.choice(puzzle.walks)
        encoded = tokenizer.encode(puzzle.text(walk, 2))
        assert encoded.tokens == [*puzzle.words(), *walk.question(2)]
        assert tokenizer.encode(tokenizer.decode(encoded.ids)).ids == encoded.ids
        row = training.packing.facts_row(puzzle.words())
        route = training.kinds.draw_route(rng, 12, 2, recipe.strides)
        training.packing.add_question(row, recipe.language, walk, 2, route, True)
        written = [recipe.language.ids[w] for w in row.words[len(encoded.tokens) :]]
        assert tokenizer.encode(tokenizer.decode(written)).ids == written
        assert tokenizer.decode(written).endswith(walk.answer(2))


def test_what_is_traced_is_what_a_stride_of_one_would_find(
    training: SimpleNamespace, recipe: Any
) -> None:
    """Loop t learns what t hops find: labels of another hop would teach the loop to stand still."""
    rng = Random(0)
    rows = training.packing.training_rows(rng, recipe, recipe.stages[1], 9)
    batch = training.packing.collate(rows, recipe)
    nothing = training.packing.NOTHING
    n_strides = 0
    for r, row in enumerate(rows):
        for i, way in enumerate(row.way):
            if not way:
                assert bool((batch.way[r, i] == nothing).all())
                continue
            n_strides += 1
            last = min(len(way), recipe.n_traced)
            for hop in range(recipe.n_traced):
                words = way[min(hop, len(way) - 1)]
                wanted = [recipe.language.ids[word] for word in words]
                assert batch.way[r, i, hop, : len(words)].tolist() == wanted
                assert bool((batch.way[r, i, hop, len(words) :] == nothing).all())
            assert int(batch.hops[r, i]) == len(way) >= last
    assert n_strides > 100
    assert len({len(row.words) // 16 for row in rows}) <= 2, "rows of a batch are about as long"
