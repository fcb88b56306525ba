"""A whole search against a made-up model whose best order is known; the command; bad input.

No torch.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.cli.study.depth import search as command
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Problem, Prompt, Sampling
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import load_plan
from orchestrator.studies.layers.mcts import Order, SearchOptions
from orchestrator.studies.layers.scoring import (
    FIRST,
    Completion,
    OrderScore,
    SearchReward,
    split,
    voted,
)
from orchestrator.studies.layers.search import SearchResult, SearchTask, chosen_reward, search

OWN: Order = (0, 1, 2, 3)
N = 24


@dataclass
class MadeUp:
    """Answers problem i rightly under an order exactly when `knows(order, i)`; drawn replies are
    right when `draws(i, seed)`.
    """

    knows: Callable[[Order, int], bool]
    draws: Callable[[int, int], bool] = lambda i, seed: True
    n_layers: int = len(OWN)
    asked: list[tuple[Order, int]] = field(default_factory=list)
    interrupt_at: int = 10**9

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        assert isinstance(prompt, str)
        return (int(prompt),)

    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> Any:
        self.asked.append((tuple(order), len(prompts)))
        if len(self.asked) == self.interrupt_at:
            raise KeyboardInterrupt
        return [self._reply(i, self.knows(tuple(order), i)) for (i,) in prompts]

    def drawn(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        **how: Any,
    ) -> Any:
        assert tuple(order) == OWN
        return [self._reply(i, self.draws(i, how["seed"])) for (i,) in prompts]

    def _reply(self, i: int, right: bool) -> Completion:
        return Completion(f"The answer is {i if right else i + 1000}.", finished=True)


def knows_more_without_layer_1(order: Order, i: int) -> bool:
    """The model's own order knows every other problem; without layer 1 it knows all, a layer less
    is enough; without 0 or 3 none.
    """
    if order[0] != 0 or order[-1] != 3:
        return False
    return i % 2 == 0 or 1 not in order


def task(
    reward: SearchReward = SearchReward.ACCURACY,
    *,
    references: bool = True,
    holdout: float = 0.5,
    n_simulations: int = 60,
    **more: Any,
) -> SearchTask:
    problems = tuple(Problem(f"q{i}", str(i), "number") for i in range(N))
    plan = Plan(sampling=Sampling(template="{prompt}", **more))
    known = {p.id: (str(i),) for i, p in enumerate(problems)} if references else {}
    return SearchTask(
        plan,
        Execution(),
        "problems.jsonl",
        problems,
        known,
        reward,
        holdout,
        5,
        SearchOptions(8, n_simulations, 0.5),
    )


def run(runner: MadeUp, asked: SearchTask, folder: Path) -> SearchResult:
    return search(runner, OWN, asked, folder / "orders.jsonl", lambda n, scored, best: None)


def test_it_finds_the_order_that_knows_most_and_of_equals_the_shortest(tmp_path: Path) -> None:
    found = run(MadeUp(knows_more_without_layer_1), task(), tmp_path)
    assert (found.winner.order, found.winner.reward) == ((0, 3), 1.0)
    assert found.front == (found.winner,)  # nothing shorter has any reward, nothing longer has more
    assert found.comparison is not None
    assert (found.comparison.kind, found.comparison.winner.value, found.comparison.winner.n) == (
        "accuracy",
        1.0,
        N // 2,
    )
    assert found.comparison.n_lost == 0
    assert found.comparison.n_gained == round((1 - found.comparison.own.value) * N / 2)


def test_the_same_seed_finds_the_same_and_the_record_saves_the_work(tmp_path: Path) -> None:
    first, second, third = (MadeUp(knows_more_without_layer_1) for _ in range(3))
    (tmp_path / "b").mkdir()
    assert (
        run(first, task(), tmp_path)
        == run(second, task(), tmp_path / "b")
        == run(third, task(), tmp_path)
    )
    assert first.asked == second.asked
    assert [order for order, _ in third.asked] == [OWN, (0, 3)]  # the comparison alone


def test_orders_are_tried_on_few_problems_first_and_on_the_rest_only_if_they_may_still_match(
    tmp_path: Path,
) -> None:
    """0 of 8 has an upper end of 0.32, below the own order's share of about a half."""
    runner = MadeUp(knows_more_without_layer_1)
    found = run(runner, task(), tmp_path)
    for order, n in runner.asked[1:-2]:
        assert n == FIRST or (n == N // 2 - FIRST and order[0] == 0 and order[-1] == 3)
    assert found.n_whole < found.n_orders


def test_without_references_the_model_s_own_vote_leads_and_the_number_is_agreement(
    tmp_path: Path,
) -> None:
    runner = MadeUp(knows_more_without_layer_1, draws=lambda i, seed: i % 3 > 0 or seed % 2 == 0)
    found = run(runner, task(SearchReward.AGREEMENT, references=False), tmp_path)
    assert found.winner.order == (0, 3)
    assert found.comparison is not None
    assert found.comparison.kind == "agreement"


def test_agreement_can_lead_astray_and_references_show_it(tmp_path: Path) -> None:
    """The vote is wrong throughout: an order that errs as the vote does agrees with it perfectly,
    and knows nothing.
    """
    found = run(
        MadeUp(knows_more_without_layer_1, draws=lambda i, seed: False),
        task(SearchReward.AGREEMENT),
        tmp_path,
    )
    assert found.winner.reward == 1.0
    assert found.comparison is not None
    assert found.comparison.kind == "accuracy"
    assert found.comparison.winner.value == 0.0 < found.comparison.own.value


def test_an_order_without_any_reward_never_wins_by_its_length(tmp_path: Path) -> None:
    found = run(MadeUp(lambda order, i: False), task(), tmp_path)
    assert found.winner.order == OWN


def test_judged_on_the_problems_that_led_it_the_number_is_an_oracle(tmp_path: Path) -> None:
    found = run(MadeUp(knows_more_without_layer_1), task(holdout=0.0), tmp_path)
    assert found.comparison is not None
    assert (found.comparison.kind, found.comparison.own.n) == ("oracle", N)
    assert any("ORACLE" in line for line in command.views.search_remarks(found))


def test_an_interrupted_search_keeps_what_it_found_and_goes_on(tmp_path: Path) -> None:
    stopped = run(MadeUp(knows_more_without_layer_1, interrupt_at=12), task(), tmp_path)
    assert stopped.interrupted
    assert stopped.comparison is None
    kept = (tmp_path / "orders.jsonl").read_text().splitlines()
    assert len(kept) == 1 + stopped.n_orders
    # a line that a crash cut off
    (tmp_path / "orders.jsonl").write_text("\n".join(kept) + '\n{"layers": "0-')
    whole = run(MadeUp(knows_more_without_layer_1), task(), tmp_path)
    (tmp_path / "new").mkdir()
    assert whole == run(MadeUp(knows_more_without_layer_1), task(), tmp_path / "new")


def test_a_record_of_another_search_is_refused(tmp_path: Path) -> None:
    run(MadeUp(knows_more_without_layer_1), task(n_simulations=2), tmp_path)
    with pytest.raises(PlanError, match="belongs to another search"):
        run(MadeUp(knows_more_without_layer_1), task(n_simulations=2, max_new_tokens=7), tmp_path)


def test_a_model_that_answers_nothing_gives_no_reward_and_says_so(tmp_path: Path) -> None:
    silent = MadeUp(knows_more_without_layer_1)
    silent._reply = lambda i, right: Completion("well", finished=False)  # type: ignore[method-assign]
    with pytest.raises(PlanError, match="none of 5 replies to 12 problems gave an answer"):
        run(silent, task(SearchReward.AGREEMENT, references=False), tmp_path)


def test_a_vote_needs_replies_that_differ(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"sampling\.temperature above 0"):
        run(
            MadeUp(knows_more_without_layer_1),
            task(SearchReward.AGREEMENT, references=False, temperature=0.0),
            tmp_path,
        )


def test_what_leads_depends_on_the_references_there_are() -> None:
    problems = [Problem("a", "1"), Problem("b", "2")]
    assert chosen_reward("auto", problems, {"b": ("2",)}) == (SearchReward.ACCURACY, (problems[1],))
    assert chosen_reward("auto", problems, {}) == (SearchReward.AGREEMENT, tuple(problems))
    assert chosen_reward("agreement", problems, {"b": ("2",)}) == (
        SearchReward.AGREEMENT,
        tuple(problems),
    )
    with pytest.raises(PlanError, match="no problem has a reference answer"):
        chosen_reward("accuracy", problems, {})


def test_a_split_is_drawn_by_its_seed_and_leaves_no_part_empty() -> None:
    problems = [Problem(str(i), "x") for i in range(10)]
    one, held = split(problems, 0.3, 1)
    assert (len(one), len(held)) == (7, 3)
    assert sorted([*one, *held], key=lambda p: int(p.id)) == problems
    assert split(problems, 0.3, 1) == (one, held) != split(problems, 0.3, 2)
    assert split(problems, 0.0, 1) == (problems, [])
    for few, share in ((problems[:1], 0.5), (problems[:1], 0.9), (problems, 0.99)):
        with pytest.raises(PlanError, match="each part needs one at least"):
            split(few, share, 0)


def test_a_vote_is_the_majority_and_a_tie_goes_to_the_first() -> None:
    problems = [Problem(name, "x") for name in "abc"]
    one, two = Answer("1", "=1"), Answer("2", "=2")
    assert voted(problems, [[one, one, None], [two, two, None], [two, None, None]]) == {
        "a": ("2",),
        "b": ("1",),
    }


def test_the_command_writes_a_plan_that_loads_and_prints_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        command, "load_decoder", lambda path, revision: MadeUp(knows_more_without_layer_1)
    )
    monkeypatch.setattr(command, "shipped_order", lambda path, n_layers: OWN)
    rows = [{"id": f"q{i}", "prompt": str(i), "answer": str(i)} for i in range(N)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "depth",
        "search",
        "made-up",
        "--problems",
        "dev.jsonl",
        "--domain",
        "number",
        "--simulations",
        "60",
    ]
    result = CliRunner().invoke(leadline, [*arguments, "--length-penalty", "0.5"])
    assert result.exit_code == 0, result.output
    assert "led by accuracy against reference answers" in result.output
    assert "100.0% (12/12)" in result.output
    loaded = load_plan(tmp_path / "runs" / "depth-dev" / "schedule.toml")
    assert loaded.plan.models["main"].layers == "0 3"
    assert loaded.problems == tmp_path / "dev.jsonl"
    document = json.loads((tmp_path / "runs" / "depth-dev" / "search.json").read_text())
    assert document["winner"]["layers"] == "0 3"
    assert document["comparison"]["kind"] == "accuracy"
    again = CliRunner().invoke(leadline, [*arguments, "--max-layers", "3"])
    assert again.exit_code == 2
    assert "--max-layers 3 is less than the 4 layers" in again.output


def test_a_search_without_problems_says_how_to_name_them() -> None:
    result = CliRunner().invoke(leadline, ["depth", "search", "smollm2"])
    assert result.exit_code == 2
    assert "name the problems to search on" in result.output


def test_marks_know_their_share() -> None:
    assert OrderScore(OWN, (True, False, True, True), whole=True).reward == 0.75
