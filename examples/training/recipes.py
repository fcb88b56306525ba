"""The models that can be trained here: which puzzles, which sizes, which curriculum.

The one rule: a recipe is the whole difference between two models; the scripts know none by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from initial import match_resemblance, match_subjects
from kinds import clock, doors, rooms
from kinds.puzzle import Kind
from looped import LoopedModel, Shape
from vocabulary import FATHOM, LONGEST_STRIDE, SOUNDER, Language


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the curriculum; rows have the kinds in turn."""

    n_rows: int
    n_walks: tuple[int, ...]  # of a puzzle, by kind
    room_for: int  # tokens of questions beside the most facts; rows with fewer facts have more
    look_back: float  # weight of the heads that read the previous words
    trace: float  # weight of the heads that read the way
    practice: float  # share of questions with short strides


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    kinds: tuple[Kind, ...]
    language: Language
    shape: Shape
    n_walks: tuple[int, ...]  # of a problem, by kind
    strides: Sequence[int]  # of completions, drawn evenly
    longest_practice: int  # stride in training beside them
    # hops of a walk: stage 1 begins with the first and ends with the second, stage 2 with the third
    hops: tuple[int, int, int]
    spread: int  # walks of stage 2 are up to that many hops shorter
    mastered: float  # share right, of what the depth allows, at which walks grow
    deepest: int  # loops
    match: Callable[[LoopedModel], None]  # first values of the think layer
    n_looks: int  # words that the first layer looks back
    n_streams: int  # words that stand for a place: heads that read the way
    n_traced: int  # hops that they read
    stages: tuple[Stage, Stage]
    n_steps: int
    lr: float = 2e-3
    constant: float = 0.6  # share of the steps before the learning rate falls


_SOUNDER = Recipe(
    name="sounder",
    kinds=(rooms.KIND,),
    language=SOUNDER,
    shape=Shape(len(SOUNDER.words)),
    n_walks=(4,),
    strides=range(4, 8),
    longest_practice=7,
    # Walks of one hop teach to look for rooms only, a plateau that walks of two did not leave in
    # 300 steps.
    hops=(3, 6, 8),
    spread=2,
    mastered=0.85,
    deepest=8,
    match=match_resemblance,
    n_looks=1,
    n_streams=1,
    n_traced=7,
    stages=(
        Stage(n_rows=64, n_walks=(3,), room_for=64, look_back=0.5, trace=1.0, practice=0.5),
        Stage(n_rows=32, n_walks=(4,), room_for=96, look_back=0.1, trace=0.3, practice=0.25),
    ),
    n_steps=3000,
)
_FATHOM = Recipe(
    name="fathom",
    kinds=(rooms.KIND, clock.KIND, doors.KIND),
    language=FATHOM,
    shape=Shape(len(FATHOM.words), width=192, n_heads=6, inner=512),
    n_walks=(4, 2, 2),
    # Short ones, so that many attempts get there by steps that their depth allows; but the most
    # likely is the longest, or greedy attempts would write every step and need no depth.
    strides=(*(1, 2, 3) * 4, *range(4, LONGEST_STRIDE), *[LONGEST_STRIDE] * 8),
    longest_practice=7,
    hops=(3, 6, 12),
    spread=6,
    mastered=0.8,
    deepest=6,
    match=match_subjects,
    n_looks=2,
    n_streams=2,
    n_traced=7,
    stages=(
        Stage(n_rows=36, n_walks=(3, 2, 2), room_for=64, look_back=0.5, trace=1.0, practice=0.5),
        Stage(n_rows=18, n_walks=(4, 2, 2), room_for=80, look_back=0.1, trace=0.5, practice=0.25),
    ),
    n_steps=2500,
    lr=1.2e-3,
)
RECIPES = {recipe.name: recipe for recipe in (_SOUNDER, _FATHOM)}
