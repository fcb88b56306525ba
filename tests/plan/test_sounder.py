"""The shipped model `sounder`: whole, readable, honest about its problems, and better the deeper it
thinks.
"""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import parse_schedule, require_layers
from orchestrator.plan.models import embedded_model, resolve_model

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = Path(resolve_model("sounder"))


@pytest.fixture(scope="module")
def sounder() -> Iterator[SimpleNamespace]:
    """The modules of examples/sounder, which are scripts and import each other by name."""
    torch = pytest.importorskip("torch")
    n_threads = torch.get_num_threads()
    # the model is so small that threads wait for each other, on a busy machine for minutes
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLES / "sounder"))
    try:
        names = ("puzzles", "vocabulary", "recipes", "packing", "evaluate", "export", "train")
        modules = {name: import_module(name) for name in names}
        yield SimpleNamespace(recipe=modules["recipes"].RECIPES["sounder"], **modules)
    finally:
        sys.path.remove(str(EXAMPLES / "sounder"))
        torch.set_num_threads(n_threads)


def draw_puzzle(sounder: SimpleNamespace, seed: int, *, held_out: bool) -> Any:
    """Return a puzzle of the first kind, with walks of eight hops."""
    draw = import_module("kinds.puzzle").draw_puzzle
    return draw(sounder.recipe.kinds[0], Random(seed), 8, 4, held_out=held_out)


def problems() -> list[dict[str, str]]:
    return [
        json.loads(line)
        for line in (EXAMPLES / "sounder.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_the_shipped_folder_is_whole_and_says_that_it_loops() -> None:
    """Engines read the depth from config.json: a schedule of layers that are not there would be
    found a minute later.
    """
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    schedule = parse_schedule(config["latent"]["layers"])
    require_layers(schedule, config["num_hidden_layers"])
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert schedule.order(2) == (0, 1, 1, 2)
    assert 1 <= config["latent"]["depth"] <= config["latent"]["max_depth"]
    assert (FOLDER / "README.md").is_file(), "a model without a card"
    assert embedded_model("sounder") == FOLDER


def test_an_installation_without_the_weights_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wheel built without its data files must not fail in an engine's loader."""
    monkeypatch.setattr("orchestrator.plan.models.__file__", str(tmp_path / "models.py"))
    with pytest.raises(
        PlanError,
        match=r"'sounder' comes with leadline, but .* lacks config\.json.*install leadline again",
    ):
        resolve_model("sounder")


def test_the_tokenizer_keeps_what_a_problem_says(sounder: SimpleNamespace) -> None:
    """Fillers are dropped, nothing else: two tokens a fact, and what is decoded reads as the same
    problem.
    """
    _, tokenizer = sounder.evaluate.load(FOLDER)
    written = sounder.export.tokenizer(sounder.recipe.language)
    assert tokenizer.to_str() == written.to_str(), "the shipped one is what the script writes"
    puzzle = draw_puzzle(sounder, 0, held_out=True)
    encoded = tokenizer.encode(puzzle.text(puzzle.walks[0], 0))
    assert encoded.tokens == [*puzzle.words(), *puzzle.walks[0].question(0)]
    ids = encoded.ids
    assert tokenizer.encode(tokenizer.decode(ids)).ids == ids
    completion = "5 steps: Kim 4 steps: Answer: 7"
    assert tokenizer.decode(tokenizer.encode(completion).ids) == completion
    assert tokenizer.encode("Zoe follows Kim.").tokens == ["<unknown>", "Kim"]


def test_problems_are_the_seed_s_and_were_never_trained_on(sounder: SimpleNamespace) -> None:
    """Held out by a hash of the facts, whatever the seed: a training row is never of that part, a
    problem always is.
    """
    is_held_out = import_module("kinds.puzzle").is_held_out
    rows = list(sounder.puzzles.draw_problems(sounder.recipe, 119, 2026, range(2, 9)))
    assert problems() == rows
    assert rows != list(sounder.puzzles.draw_problems(sounder.recipe, 119, 2027, range(2, 9)))
    for row in rows:
        facts = [
            sentence.replace(" goes to room ", " follows ").split(" follows ")
            for sentence in row["prompt"].split(". ")[:-1]
        ]
        leads = dict(facts)
        person = row["prompt"].split()[-3]
        way = [person]
        while way[-1] in leads:
            way.append(leads[way[-1]])
        assert (way[-1], str(len(way) - 1)) == (row["answer"], row["tags"]["hops"])
        assert is_held_out([(who, goal) for who, goal in facts])
    trained = [draw_puzzle(sounder, seed, held_out=False) for seed in range(200)]
    assert not any(is_held_out(puzzle.facts) for puzzle in trained), (
        "without the rule all 200 would pass with (15/16)**200 = 2.5e-6"
    )


def test_packed_questions_equal_questions_alone(sounder: SimpleNamespace) -> None:
    """Training and evaluation pack many questions into one sequence; a user asks one."""
    torch = import_module("torch")
    model, _ = sounder.evaluate.load(FOLDER)
    puzzle = draw_puzzle(sounder, 1, held_out=True)
    rows = [sounder.packing.facts_row(puzzle.words()) for _ in range(2)]
    language, route = sounder.recipe.language, [(4, 5), (6, 8)]
    for row, walks in zip(rows, ((0, 3), (3,)), strict=True):
        for walk in walks:
            sounder.packing.add_question(row, language, puzzle.walks[walk], 1, route, True)
    packed, alone = (sounder.packing.collate([row], sounder.recipe) for row in rows)
    with torch.inference_mode():
        together, single = (
            model.logits(model.states(b.ids, b.positions, b.mask, 8)[-1])[0, -6:]
            for b in (packed, alone)
        )
    assert torch.allclose(together, single, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 4])
def test_it_is_a_stock_llama_with_its_layers_in_the_order_of_the_schedule(
    sounder: SimpleNamespace, depth: int
) -> None:
    """What an engine computes from the same folder: Hugging Face's own layers, one after another,
    one norm at the end.
    """
    torch, transformers = import_module("torch"), import_module("transformers")
    model, tokenizer = sounder.evaluate.load(FOLDER)
    ids = torch.tensor([tokenizer.encode(problems()[0]["prompt"]).ids])
    positions, mask = (
        torch.arange(ids.shape[1])[None],
        sounder.packing.visible(torch.zeros_like(ids)),
    )
    stock = transformers.AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    order = parse_schedule("0 (1)*r 2").order(depth)
    stock.model.layers = torch.nn.ModuleList(stock.model.layers[i] for i in order)
    stock.config.num_hidden_layers = stock.model.config.num_hidden_layers = len(order)
    with torch.inference_mode():
        ours = model.logits(model.states(ids, positions, mask, depth)[-1])
        theirs = stock(input_ids=ids, use_cache=False).logits
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.slow
def test_depth_pays_on_many_hops(sounder: SimpleNamespace) -> None:
    """At least 30 points from depth 1 to 8 on problems of five hops and more, four samples each.

    The card's figures put the gap at 0.76. With 60 problems a rate's standard error is at most
    sqrt(0.25 / 60) = 0.065, a difference's 0.092: 0.30 lies five of these below, and problems and
    samples are fixed anyhow.
    """
    model, tokenizer = sounder.evaluate.load(FOLDER)
    many = [row for row in problems() if int(row["tags"]["hops"]) >= 5][:60]
    assert len(many) == 60
    prompts = [row["prompt"] for row in many]

    def accuracy(depth: int) -> float:
        given = sounder.evaluate.answers(model, tokenizer, prompts, 4, depth, 1.0)
        return (
            sum(
                answer == row["answer"]
                for row, found in zip(many, given, strict=True)
                for answer in found
            )
            / 240
        )

    assert accuracy(8) - accuracy(1) >= 0.30


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sounder", "fathom"])
def test_training_goes_on_from_its_checkpoint(
    sounder: SimpleNamespace, tmp_path: Path, model: str
) -> None:
    """Half an hour of training that cannot be stopped is lost to one Ctrl-C: two steps and a third
    later are three at once.
    """
    torch = import_module("torch")

    def trained(out: str, *steps: int) -> dict[str, object]:
        for n in steps:
            settings = {
                "model": model,
                "out": str(tmp_path / out),
                "device": "cpu",
                "seed": 7,
                "steps": n,
                "lr": 2e-3,
                "constant": 0.99,
                "report": 1,
            }
            sounder.train.train(SimpleNamespace(**settings))
        return dict(torch.load(tmp_path / out / "checkpoint.pt"))

    whole, resumed = trained("whole", 3), trained("resumed", 2, 3)
    assert resumed["progress"] == whole["progress"]
    assert all(
        torch.equal(value, resumed["trainee"][name]) for name, value in whole["trainee"].items()
    )
    recipe = sounder.recipes.RECIPES[model]
    sounder.export.export(recipe, tmp_path / "whole" / "checkpoint.pt", tmp_path / "folder")
    assert sounder.evaluate.load(tmp_path / "folder")[0].shape == recipe.shape
