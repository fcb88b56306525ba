"""Worked examples before each question: which, in what form, and what a job keeps of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import FewShot, Plan, fingerprint
from orchestrator.core.session import Session
from orchestrator.core.values import Media, Message, Problem, Prompt, Request, Sampling
from orchestrator.jobs.finished import read_finished
from orchestrator.jobs.rows.examples import with_examples
from orchestrator.jobs.sessions import load_explorer
from orchestrator.kit.prompts import chat_messages
from orchestrator.plan.file import load_plan

Cli = Callable[..., Result]
TEXT = "Q: {prompt}\nA: {answer}\n\n"
PLAN = """
problems = "p.jsonl"
domain = "number"
strategy = {{ name = "consistency", n = 2 }}
[columns]
prompt = "task"
[few_shot]
file = "train.csv"
n = 2
{more}
[few_shot.columns]
answer = "{{work}} So {{gold}}."
[execution]
engine = "fake"
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command in a directory of its own, with a plan, problems and examples."""
    monkeypatch.chdir(tmp_path)
    write_plan()
    rows = [{"id": f"q{i}", "task": f"What is {i}?", "answer": i} for i in range(3)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = "".join(f"t{i},What is {i}?,Count.,{i}\n" for i in (7, 2, 9))
    Path("train.csv").write_text(f"id,task,work,gold\n{train}")
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


def write_plan(more: str = "") -> None:
    Path("plan.toml").write_text(PLAN.format(more=more))


def first_request(plan: Plan, problem: Problem) -> Request:
    session: Session = load_explorer(plan).session(problem)
    return session.start()[0].request


def prompt(plan: Plan, question: Prompt, id: str = "x") -> Prompt:
    return first_request(plan, Problem(id, question)).prompt


def turns(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


SEVEN = ("What is 7?", "Count. So 7.")
TWO = ("What is 2?", "Count. So 2.")
NINE = ("What is 9?", "Count. So 9.")


def test_examples_are_turns_before_the_question_and_never_the_problem_itself(cli: Cli) -> None:
    """By its text, also with other spaces, and by its id."""
    plan = with_examples(load_plan("plan.toml").plan)
    assert prompt(plan, "New?") == turns(*SEVEN, *TWO, "New?")
    assert prompt(plan, " What is 2?\n")[2].content == "What is 9?"  # type: ignore[union-attr]
    assert prompt(plan, "New?", "t7") == turns(*TWO, *NINE, "New?")
    conversation = (Message("system", "Be brief."), *turns("Hi.", "Hello.", "New?"))
    assert prompt(plan, conversation) == (
        Message("system", "Be brief."),
        *turns(*SEVEN, *TWO, "Hi.", "Hello.", "New?"),
    )


def test_examples_take_the_template_and_the_system_message_of_the_plan(cli: Cli) -> None:
    loaded = load_plan(
        "plan.toml", {"sampling.template": "{prompt} Think.", "sampling.system": "S"}
    )
    assert prompt(with_examples(loaded.plan), "New?") == (
        Message("system", "S"),
        *turns("What is 7? Think.", SEVEN[1], "What is 2? Think.", TWO[1], "New? Think."),
    )


def test_examples_as_text_end_where_the_answer_begins_and_another_one_ends_the_attempt(
    cli: Cli,
) -> None:
    """A base model continues with a question of its own, whose answer must not be read."""
    plan = with_examples(load_plan("plan.toml", {"few_shot.template": TEXT}).plan)
    request = first_request(plan, Problem("x", "New?"))
    assert request.prompt == (
        "Q: What is 7?\nA: Count. So 7.\n\nQ: What is 2?\nA: Count. So 2.\n\nQ: New?\nA:"
    )
    assert request.stop == ("\nQ:",)
    own = with_examples(
        load_plan("plan.toml", {"few_shot.template": TEXT, "sampling.stop": '["END"]'}).plan
    )
    assert first_request(own, Problem("x", "New?")).stop == ("END", "\nQ:")
    bare = {"few_shot.template": "{prompt}\n{answer}\n\n"}
    plan = with_examples(load_plan("plan.toml", bare).plan)
    assert first_request(plan, Problem("x", "New?")).stop == ("\n\n",)


def test_a_random_choice_depends_on_the_problem_and_the_seed_alone(cli: Cli) -> None:
    rows = "".join(f"t{i},What is {i}?,Count.,{i}\n" for i in range(50))
    Path("train.csv").write_text(f"id,task,work,gold\n{rows}")
    plan = with_examples(load_plan("plan.toml", {"few_shot.choice": "random"}).plan)
    drawn = {id: prompt(plan, "New?", id) for id in map(str, range(20))}
    assert drawn == {id: prompt(plan, "New?", id) for id in map(str, range(20))}
    assert len(set(drawn.values())) > 15  # of 2450 pairs
    for i in range(50):  # each is once the problem itself
        assert f"What is {i}?" not in [m.content for m in prompt(plan, "New?", f"t{i}")]  # type: ignore[union-attr]
    other = with_examples(load_plan("plan.toml", {"few_shot.choice": "random", "seed": "1"}).plan)
    assert prompt(other, "New?", "0") != drawn["0"]


def test_a_job_keeps_its_examples_and_refuses_others(cli: Cli, tmp_path: Path) -> None:
    """Also after it was moved, and its input is gone."""
    done = cli("run", "plan.toml")
    assert done.exit_code == 0, done.output
    train = Path("train.csv").read_text()
    Path("train.csv").write_text(train.replace("Count", "Guess"))
    refused = cli("run", "plan.toml")
    assert refused.exit_code == 2
    assert "few_shot.content" in refused.stderr
    Path("train.csv").unlink()
    Path("runs/plan").rename("moved")
    results = Path("moved/results.jsonl").read_text()
    again = cli("resume", "moved")
    assert again.exit_code == 0, again.output
    assert Path("moved/results.jsonl").read_text() == results
    job = read_finished(Path("moved"))
    question = job.problems()[0]["q2"]
    assert prompt(job.plan, question.prompt, "q2") == turns(*SEVEN, *NINE, "What is 2?")
    Path("moved/few-shot.jsonl").write_text('{"id": 1, "prompt": "?", "answer": "!"}\n' * 1)
    assert "few_shot.n = 2, and" in cli("resume", "moved").stderr


def test_the_fingerprint_covers_the_examples_and_not_their_place(cli: Cli) -> None:
    plan = with_examples(load_plan("plan.toml").plan)
    Path("other.csv").write_text(Path("train.csv").read_text())
    moved = with_examples(load_plan("plan.toml", {"few_shot.file": "other.csv"}).plan)
    assert fingerprint(moved) == fingerprint(plan)
    Path("other.csv").write_text(Path("train.csv").read_text().replace("7?", "8?"))
    changed = with_examples(load_plan("plan.toml", {"few_shot.file": "other.csv"}).plan)
    assert len({fingerprint(p) for p in (plan, changed, Plan())}) == 3


CONVERSATION = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
}


def test_conversations_and_several_right_answers_are_examples(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows: list[dict[str, Any]] = [CONVERSATION, {"prompt": "c", "answer": [4, 5]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = with_examples(Plan(few_shot=FewShot(str(path), 2), sampling=Sampling()))
    assert prompt(plan, "New?") == turns("a", "b", "c", "4", "New?")


@pytest.mark.parametrize(
    ("row", "few_shot", "message"),
    [
        ({"prompt": "a"}, {}, "t.jsonl:1: it has no answer"),
        ({"prompt": 3, "answer": "a"}, {}, "t.jsonl:1: its prompt is no text"),
        ({"messages": [{"role": "user", "content": "a"}]}, {}, "t.jsonl:1: it has no answer"),
        (CONVERSATION, {"n": 2}, "few_shot.n = 2, and .* has 1 examples"),
        (CONVERSATION, {"file": "-"}, "only problems are read from standard input"),
        (CONVERSATION, {"content": "00"}, "has other examples than the plan was run with"),
        (CONVERSATION, {"columns": {"prompt": "q"}}, "no column 'q'|'q'"),
    ],
)
def test_what_is_no_example_is_an_error_of_the_plan(
    tmp_path: Path, row: dict[str, Any], few_shot: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(PlanError, match=message):
        with_examples(Plan(few_shot=FewShot(**{"file": str(path), "n": 1, **few_shot})))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"few_shot.n": "0"}, "few_shot.n = 0: it must be at least 1"),
        ({"few_shot.template": "{answer} {prompt}"}, "few_shot.template"),
        ({"few_shot.choice": "last"}, "few_shot.choice = 'last'"),
        ({"few_shot.nn": "3"}, "few_shot.n"),
    ],
)
def test_a_table_of_examples_that_cannot_be_is_refused(
    cli: Cli, flags: dict[str, str], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        load_plan("plan.toml", flags)


PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOLS = """
[[sampling.extra.tools]]
type = "function"
function = { name = "look", parameters = { type = "object" } }
"""


def call(place: int) -> dict[str, Any]:
    function = {"name": "look", "arguments": "{}"}
    return {"id": f"c{place}", "type": "function", "function": function}


def test_images_and_calls_of_examples_and_questions_reach_the_engine_in_their_places(
    cli: Cli,
) -> None:
    """Also from the copy of a job, and as text; an example may end with calls."""
    asked = {"role": "user", "content": [{"type": "text", "text": "See "}, PIXEL]}
    looked = {"role": "assistant", "content": None, "tool_calls": [call(0)]}
    colour = {"role": "tool", "tool_call_id": "c0", "content": "red"}
    train = [
        {"messages": [asked, looked, colour], "answer": "It is red."},
        {"messages": [asked, {**looked, "tool_calls": [call(1)]}]},
    ]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    own = {"role": "user", "content": [PIXEL, {"type": "text", "text": "And this?"}]}
    Path("p.jsonl").write_text(json.dumps({"id": "q", "messages": [own]}) + "\n")
    lines = PLAN.format(more="").split("[few_shot.columns]")
    fake = lines[0].replace("train.csv", "train.jsonl").replace('[columns]\nprompt = "task"\n', "")
    Path("plan.toml").write_text(fake + TOOLS + '[execution]\nengine = "fake"\n')
    done = cli("run", "plan.toml")
    assert done.exit_code == 0, done.output
    Path("train.jsonl").unlink()
    job = read_finished(Path("runs/plan"))
    request = first_request(job.plan, job.problems()[0]["q"])
    assert chat_messages(request.prompt) == [
        *(asked, looked, colour, {"role": "assistant", "content": "It is red."}),
        *(asked, {**looked, "tool_calls": [call(1)]}, own),
    ]
    assert request.sampling is not None
    assert request.sampling.extra["tools"][0]["function"]["name"] == "look"  # type: ignore[index]


def test_images_of_examples_as_text_stand_where_their_questions_have_them(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    asked = {"role": "user", "content": [{"type": "text", "text": "See "}, PIXEL]}
    path.write_text(json.dumps({"messages": [asked], "answer": "red"}) + "\n")
    plan = with_examples(Plan(few_shot=FewShot(str(path), 1, template=TEXT)))
    own = (Message("user", "New?", (Media("image_url", json.dumps(PIXEL["image_url"])),)),)
    texts = [{"type": "text", "text": t} for t in ("Q: See ", "\nA: red\n\nQ: ", "New?\nA:")]
    content = [texts[0], PIXEL, texts[1], PIXEL, texts[2]]
    assert chat_messages(prompt(plan, own)) == [{"role": "user", "content": content}]
    turns_of_many = [asked, {"role": "assistant", "content": "?"}, asked]
    path.write_text(json.dumps({"messages": turns_of_many, "answer": "red"}) + "\n")
    with pytest.raises(PlanError, match=r"t\.jsonl:1: few_shot\.template has place for one"):
        with_examples(Plan(few_shot=FewShot(str(path), 1, template=TEXT)))
