"""The shipped models: whole, readable, honest about their problems, and better the deeper they
think.
"""

import json
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
HOPS = {"sounder": range(2, 9), "fathom": range(4, 17)}  # of the problems in examples

both = pytest.mark.parametrize("name", HOPS)


def folder(name: str) -> Path:
    return Path(resolve_model(name))


def draw_puzzle(training: SimpleNamespace, name: str, seed: int, *, held_out: bool) -> Any:
    """Return a puzzle, of any of the model's kinds, with walks as long as training's longest."""
    recipe = training.recipes.RECIPES[name]
    which = seed % len(recipe.kinds)
    return training.kinds.draw_puzzle(
        recipe.kinds[which],
        Random(seed),
        recipe.hops[-1],
        recipe.n_walks[which],
        held_out=held_out,
    )


def problems(name: str) -> list[dict[str, Any]]:
    text = (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@both
def test_the_shipped_folder_is_whole_and_says_that_it_loops(name: str) -> None:
    """Engines read the depth from config.json: a schedule of layers that are not there would be
    found a minute later.
    """
    config = json.loads((folder(name) / "config.json").read_text(encoding="utf-8"))
    schedule = parse_schedule(config["latent"]["layers"])
    require_layers(schedule, config["num_hidden_layers"])
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert schedule.order(2) == (0, 1, 1, 2)
    assert 1 <= config["latent"]["depth"] <= config["latent"]["max_depth"]
    assert (folder(name) / "README.md").is_file(), "a model without a card"
    assert embedded_model(name) == folder(name)


@both
def test_an_installation_without_the_weights_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """A wheel built without its data files must not fail in an engine's loader."""
    monkeypatch.setattr("orchestrator.plan.models.__file__", str(tmp_path / "models.py"))
    with pytest.raises(
        PlanError,
        match=rf"'{name}' comes with leadline, but .* lacks config\.json.*install leadline again",
    ):
        resolve_model(name)


@both
def test_the_tokenizer_keeps_what_a_problem_says(training: SimpleNamespace, name: str) -> None:
    """Fillers are dropped, nothing else: what is decoded reads as the same problem."""
    recipe = training.recipes.RECIPES[name]
    _, tokenizer = training.evaluate.load(folder(name))
    written = training.export.tokenizer(recipe.language)
    assert tokenizer.to_str() == written.to_str(), "the shipped one is what the script writes"
    for seed in range(len(recipe.kinds)):
        puzzle = draw_puzzle(training, name, seed, held_out=True)
        encoded = tokenizer.encode(puzzle.text(puzzle.walks[0], 0))
        assert encoded.tokens == [*puzzle.words(), *puzzle.walks[0].question(0)]
        assert tokenizer.encode(tokenizer.decode(encoded.ids)).ids == encoded.ids
    completion = "5 steps: Kim 4 steps: Answer: 7"
    assert tokenizer.decode(tokenizer.encode(completion).ids) == completion
    assert tokenizer.encode("Zoe follows Kim.").tokens == ["<unknown>", "Kim"]


@both
def test_problems_are_the_seed_s_and_were_never_trained_on(
    training: SimpleNamespace, name: str
) -> None:
    """Held out by a hash of the facts, whatever the seed: a training row is never of that part, a
    problem always is. `test_puzzle_kinds` solves the problems from their texts.
    """
    recipe, given = training.recipes.RECIPES[name], problems(name)
    rows = list(training.puzzles.draw_problems(recipe, len(given), 2026, HOPS[name]))
    assert given == rows
    others = list(training.puzzles.draw_problems(recipe, len(given), 2027, HOPS[name]))
    assert rows != others
    is_held_out = training.kinds.is_held_out
    for row in rows:
        if row["tags"].get("kind", "rooms") == "rooms":
            sentences = row["prompt"].replace(" goes to room ", " follows ").split(". ")[:-1]
            assert is_held_out([tuple(sentence.split(" follows ")) for sentence in sentences])
    trained = [draw_puzzle(training, name, seed, held_out=False) for seed in range(200)]
    assert not any(is_held_out(puzzle.facts) for puzzle in trained), (
        "without the rule all 200 would pass with (15/16)**200 = 2.5e-6"
    )


@both
def test_packed_questions_equal_questions_alone(training: SimpleNamespace, name: str) -> None:
    """Training and evaluation pack many questions into one sequence; a user asks one."""
    torch = import_module("torch")
    recipe = training.recipes.RECIPES[name]
    model, _ = training.evaluate.load(folder(name))
    puzzle = draw_puzzle(training, name, 0, held_out=True)
    rows = [training.packing.facts_row(puzzle.words()) for _ in range(2)]
    language, route = recipe.language, [(4, 5), (6, len(puzzle.walks[0]))]
    for row, walks in zip(rows, ((0, 3), (3,)), strict=True):
        for walk in walks:
            training.packing.add_question(row, language, puzzle.walks[walk], 1, route, True)
    packed, alone = (training.packing.collate([row], recipe) for row in rows)
    with torch.inference_mode():
        together, single = (
            model.logits(model.states(b.ids, b.positions, b.mask, 8)[-1])[0, -6:]
            for b in (packed, alone)
        )
    assert torch.allclose(together, single, atol=1e-3)


@pytest.mark.slow
@both
@pytest.mark.parametrize("depth", [1, 4])
def test_it_is_a_stock_llama_with_its_layers_in_the_order_of_the_schedule(
    training: SimpleNamespace, name: str, depth: int
) -> None:
    """What an engine computes from the same folder: Hugging Face's own layers, one after another,
    one norm at the end.
    """
    torch, transformers = import_module("torch"), import_module("transformers")
    model, tokenizer = training.evaluate.load(folder(name))
    ids = torch.tensor([tokenizer.encode(problems(name)[0]["prompt"]).ids])
    positions, mask = (
        torch.arange(ids.shape[1])[None],
        training.packing.visible(torch.zeros_like(ids)),
    )
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder(name)).eval()
    order = parse_schedule("0 (1)*r 2").order(depth)
    stock.model.layers = torch.nn.ModuleList(stock.model.layers[i] for i in order)
    stock.config.num_hidden_layers = stock.model.config.num_hidden_layers = len(order)
    with torch.inference_mode():
        ours = model.logits(model.states(ids, positions, mask, depth)[-1])
        theirs = stock(input_ids=ids, use_cache=False).logits
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "deep", "least"), [("sounder", 8, 5), ("fathom", 6, 4)])
def test_depth_pays(training: SimpleNamespace, name: str, deep: int, least: int) -> None:
    """At least 30 points from depth 1 to that of the example's plan, four samples of each problem
    of at least so many hops.

    The cards have 76 points and more than 35. With n problems a difference's standard error is at
    most sqrt(0.5 / n), 0.09 and 0.06, and problems and samples are fixed anyhow.
    """
    model, tokenizer = training.evaluate.load(folder(name))
    rows = [row for row in problems(name) if int(row["tags"]["hops"]) >= least]
    prompts = [row["prompt"] for row in rows]

    def accuracy(depth: int) -> float:
        given = training.evaluate.answers(model, tokenizer, prompts, 4, depth, 1.0)
        right = [one == row["answer"] for row, n in zip(rows, given, strict=True) for one in n]
        return sum(right) / len(right)

    assert accuracy(deep) - accuracy(1) >= 0.30


@pytest.mark.slow
def test_width_pays_at_the_depth_at_which_fathom_is_best(training: SimpleNamespace) -> None:
    """A vote of 16 has at least five points more than one attempt; the card has more than ten."""
    model, tokenizer = training.evaluate.load(folder("fathom"))
    rows = problems("fathom")
    prompts = [row["prompt"] for row in rows]
    given = training.evaluate.answers(model, tokenizer, prompts, 16, 6, 1.0)

    def accuracy(width: int) -> float:
        return training.evaluate.mean_with_interval(
            [
                training.evaluate.majority_rate(votes, row["answer"], width, Random(0))
                for votes, row in zip(given, rows, strict=True)
            ]
        )[0]

    assert accuracy(16) - accuracy(1) >= 0.05


@pytest.mark.slow
@both
def test_training_goes_on_from_its_checkpoint(
    training: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    """Half an hour of training that cannot be stopped is lost to one Ctrl-C: two steps and a third
    later are three at once.
    """
    torch = import_module("torch")

    def trained(out: str, *steps: int) -> dict[str, object]:
        for n in steps:
            settings = {
                "model": name,
                "out": str(tmp_path / out),
                "device": "cpu",
                "seed": 7,
                "steps": n,
                "lr": 2e-3,
                "constant": 0.99,
                "report": 1,
            }
            training.train.train(SimpleNamespace(**settings))
        return dict(torch.load(tmp_path / out / "checkpoint.pt"))

    whole, resumed = trained("whole", 3), trained("resumed", 2, 3)
    assert resumed["progress"] == whole["progress"]
    assert all(
        torch.equal(value, resumed["trainee"][key]) for key, value in whole["trainee"].items()
    )
    recipe = training.recipes.RECIPES[name]
    training.export.export(recipe, tmp_path / "whole" / "checkpoint.pt", tmp_path / "folder")
    assert training.evaluate.load(tmp_path / "folder")[0].shape == recipe.shape
