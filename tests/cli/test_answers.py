"""`leadline answers`: what it shows of texts, files and jobs, and how it compares two answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.plan import registry

PLUGINS = '''
import dataclasses, os
from typing import ClassVar

@dataclasses.dataclass(frozen=True)
class Typed:
    """Describes its answers, and dies of some."""
    in_process: ClassVar[bool] = False

    def extract(self, text, finished):
        if "crash" in text:
            os._exit(3)
        return text.rpartition("is ")[2] or None

    def canonical(self, answer):
        return answer.lower()

    def equivalent(self, a, b):
        if "crash" in b:
            os._exit(3)
        return a.strip("!").lower() == b.strip("!").lower()

    def describe(self, answer):
        if answer == "odd":
            raise ValueError("no type")
        return f"word {answer.lower()}"
'''
LONG = [  # a reply that corrects itself
    "Let me think. The answer is 12.",
    *["That cannot be, so I count again."] * 40,
    "The answer is 13, not 12.",
    *["Let me check it once more."] * 7,
    "Therefore the answer is $13$.",
    "",
    "I hope this helps!",
    "",
]
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `leadline answers` in a directory of its own, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **settings: CliRunner().invoke(
        leadline, ["answers", *arguments], **settings
    )


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A domain of the user's own."""
    (tmp_path / "typed_domain.py").write_text(PLUGINS)
    monkeypatch.syspath_prepend(tmp_path)
    from importlib import import_module

    module: Any = import_module("typed_domain")
    monkeypatch.setitem(registry._decorated["domains"], "typed", module.Typed)
    yield
    del sys.modules["typed_domain"]


def document(cli: Run, *arguments: str) -> Any:
    done = cli(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def shown(done: Result) -> str:
    return " ".join(done.stdout.split())


# One text


def test_it_shows_what_was_read_where_and_its_key(cli: Run) -> None:
    done = cli("First 6 * 3.\nSo the answer is $\\frac{1}{2}$.")
    assert done.exit_code == 0
    assert "answer \\frac{1}{2}" in shown(done)
    assert "line 2, given explicitly: So the answer is $\\frac{1}{2}$." in shown(done)
    assert "key =1/2" in shown(done)
    assert "domain math" in shown(done)


def test_it_points_at_the_line_that_decides(cli: Run) -> None:
    """The last explicit answer counts; text before and after it does not move the finger."""
    [reading] = document(cli, "\n".join(LONG), "--domain", "number")
    place = reading["place"]
    assert (reading["answer"], reading["key"]) == ("13", "=13")
    assert place["explicit"]
    assert LONG[place["line"] - 1] in (LONG[41], LONG[49])
    assert place["text"][place["column"] - 1 :].startswith("13")
    [other] = document(cli, "\n".join([*LONG, "Sorry, the answer is 7.", "Bye."]))
    assert (other["answer"], other["place"]["line"]) == ("7", len(LONG) + 1)


@pytest.mark.parametrize("n_lines", [1, 2, 3, 4, 5, 8, 9, 33])
def test_the_line_is_found_wherever_it_is(cli: Run, n_lines: int) -> None:
    """For an answer on every line of texts of several lengths."""
    texts = []
    for position in range(n_lines):
        lines = [f"Line {i}." for i in range(n_lines)]
        lines[position] = "The answer is 5."
        texts.append("\n".join(lines))
    readings = document(cli, *texts)
    assert [reading["place"]["line"] for reading in readings] == list(range(1, n_lines + 1))


def test_an_answer_that_is_not_explicit_was_read_at_the_end(cli: Run) -> None:
    done = cli("There are 6 * 3 pens.\nThe total is 18 pens.\n\n", "--domain", "number")
    assert "line 2, not explicit; read at the end of the text: The total is 18 pens." in shown(done)


def test_an_abstention_says_why(cli: Run) -> None:
    assert "none: the text gives no answer that the domain reads" in shown(cli("I do not know"))
    assert "none: the text was cut off before it gave an answer" in shown(cli("18", "--cut-off"))
    assert "line 1, given explicitly" in shown(cli("\\boxed{18} is it, as", "--cut-off"))


def test_thinking_is_told_apart(cli: Run) -> None:
    """What a model only thought is no part of its reply."""
    done = cli("<think>Hm.\nThe answer is 5.</think>\n\nSo the answer is 6.")
    assert "answer 6" in shown(done)
    assert "line 3 of the reply, given explicitly: So the answer is 6." in shown(done)
    assert "thinking 20 characters, apart from the reply" in shown(done)
    open_end = cli("<think>The answer is 5.")
    assert "none: the text ends inside its thinking, so there is no reply" in shown(open_end)


def test_options_of_the_domain_are_given_with_its_name(cli: Run) -> None:
    text = "The answer is E."
    assert document(cli, text, "--domain", "choice letters=ABCDE")[0]["answer"] == "E"
    assert document(cli, text, "--domain", "choice letters=ABCD")[0]["answer"] is None


def test_a_reference_is_read_and_compared(cli: Run) -> None:
    """Any of several is right; one that cannot be read is named."""
    references = ("--reference", "#### 18", "--reference", "many")
    done = cli("It is \\boxed{18.0}", "--domain", "number", *references)
    assert 'reference 18, read from "#### 18": right' in shown(done)
    assert "reference many cannot be read" in shown(done)
    assert "reference 18: not met" in shown(cli("\\boxed{19}", "--reference", "18"))
    assert "reference 18: not met" in shown(cli("I do not know", "--reference", "18"))


def test_a_text_may_begin_with_a_sign_and_come_from_the_standard_input(cli: Run) -> None:
    assert document(cli, "-1/2")[0]["answer"] == "-1/2"
    assert "key =8" in shown(cli("-", input="Well.\nThe answer is 8.\n"))
    assert cli("--comprae", "1", "2").exit_code == 2


# Several texts


def test_several_texts_are_attempts_at_one_problem(cli: Run) -> None:
    """They share classes; each has a row."""
    done = cli("The answer is 0.5", "\\boxed{\\frac12}", "#### 3", "no idea", "--reference", "1/2")
    assert "3 answers in 2 classes; 1 abstention" in shown(done)
    readings = document(cli, "The answer is x+1", "\\boxed{1+x}")
    assert readings[0]["key"] == readings[1]["key"]


def test_a_file_has_one_text_or_one_in_each_row(cli: Run) -> None:
    Path("reply.txt").write_text("Hm.\nThe answer is 8.\n")
    assert "line 2, given explicitly: The answer is 8." in shown(cli("--file", "reply.txt"))
    Path("replies.jsonl").write_text(
        '"The answer is 8"\n\n{"text": "The total is 8", "finished": false, "tokens": 5}\n'
    )
    first, second = document(cli, "--file", "replies.jsonl")
    assert (first["name"], first["answer"]) == ("replies.jsonl:1", "8")
    assert (second["name"], second["answer"]) == ("replies.jsonl:3", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give one of: TEXT"),
        (("a", "--file", "b"), "give one of: TEXT"),
        (("--file", "none.txt"), "none.txt cannot be read: No such file"),
        (("--file", "bytes.txt"), "byte 1 is not UTF-8"),
        (("--file", "bad.jsonl"), "bad.jsonl:2: a row is a text, or an object"),
        (("--file", "broken.jsonl"), "broken.jsonl:1: not JSON"),
        (("--job", "nowhere"), "there is no job in nowhere"),
        (("a", "--problem", "q1"), "--problem has no meaning with TEXT and --file"),
        (("--job", "a", "--cut-off"), "--cut-off has no meaning with --job"),
        (("--compare", "a", "b", "--reference", "c"), "--reference has no meaning with --compare"),
        (("a", "--domain", "maths"), "did you mean 'math'"),
        (("a", "--domain", "choice letters=1"), "letters"),
        (("--compare", "1"), "--compare takes two answers, not 1"),
        (("--compare", "--file", "bytes.txt"), "--compare takes two answers"),
    ],
)
def test_what_cannot_be_read_is_refused(cli: Run, arguments: tuple[str, ...], words: str) -> None:
    Path("bytes.txt").write_bytes(b"\xff")
    Path("bad.jsonl").write_text('"a"\n{"reply": "b"}\n')
    Path("broken.jsonl").write_text("{\n")
    done = cli(*arguments)
    assert (done.exit_code, words in done.stderr) == (2, True), done.output
    assert done.stdout == ""


def test_the_attempts_of_a_job_are_read_again(cli: Run) -> None:
    """By the job's domains or another; what differs from the journal is marked."""
    rows = [{"id": f"q{i}", "prompt": "x", "answer": f"#### {18 + i}"} for i in range(2)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--execution.engine", "fake", "--execution.engine.answers", '["18"]')
    run = ["run", "--problems", "p.jsonl", *flags, "--domain", "number", "--strategy.n", "2"]
    assert CliRunner().invoke(leadline, run).exit_code == 0
    readings = document(cli, "--job", "runs/p")
    assert [r["name"] for r in readings] == ["q0 #0", "q0 #1", "q1 #0", "q1 #1"]
    assert [r["references"][0]["right"] for r in readings] == [True, True, False, False]
    assert [r["recorded"] for r in readings] == ["18"] * 4
    done = cli("--job", "runs/p", "--problem", "q1")
    assert "2 answers in 1 class; 0 abstentions" in shown(done)
    assert "journal" not in done.stdout
    other = cli("--job", "runs/p", "--problem", "q1", "--domain", "choice")
    assert "q1 #0 (no answer) – – 18" in shown(other)
    assert "1 of 1 references cannot be read as one letter" in other.stderr
    assert "2 answers not as in the journal" in shown(other)
    near = ("--job", "runs/p", "--problem", "q1", "--domain", "number relative_tolerance=0.1")
    assert document(cli, *near)[0]["references"][0]["right"], "18 is within a tenth of 19"
    assert "has no problem 'q7'" in cli("--job", "runs/p", "--problem", "q7").stderr
    Path("p.jsonl").unlink()
    assert document(cli, "--job", "runs/p")[0]["references"] == []


# Two answers


@pytest.mark.slow  # a process of its own for each pair
@pytest.mark.parametrize(
    ("a", "b", "domain", "equal", "reason"),
    [
        ("1/2", "50\\%", "math", True, "both have the key =1/2"),
        ("-1/2", "-0.5", "number", True, "both have the key =-1/2"),
        ("0.333", "1/3", "number", False, "their keys differ"),
        ("1", "1.001", "number relative_tolerance=0.1", True, "both have the key"),
        ("B", "(b)", "choice", True, "both have the key =B"),
        ("yes", "no", "text", False, "their keys differ"),
        ("x+1", "1+x", "math", True, "one answer in the domain math"),
        ("x+1", "x+2", "math", False, "two different answers in the domain math"),
        ("\\{1,3\\}", "(1,3)", "math", False, "the first is set {1, 3}, the second tuple (1, 3)"),
        ("x>3", "(3,\\infty)", "math", True, "one answer in the domain math"),
    ],
)
def test_two_answers_are_compared(
    cli: Run, a: str, b: str, domain: str, equal: bool, reason: str
) -> None:
    """The exit code is that of diff and cmp."""
    done = cli("--compare", a, b, "--domain", domain)
    assert done.exit_code == (0 if equal else 1), done.output
    assert reason in shown(done)
    comparison = json.loads(cli("--compare", a, b, "--domain", domain, "--json").stdout)
    assert comparison["equal"] is equal
    assert comparison["answers"] == [a, b]


@pytest.mark.usefixtures("typed")
def test_answers_are_described_where_the_domain_can(cli: Run) -> None:
    done = cli("it is Red", "--domain", "typed")
    assert "type word red" in shown(done)
    assert "key red" in shown(done)
    assert "domain failed: raised ValueError: no type" in shown(cli("is odd", "--domain", "typed"))
    compared = cli("--compare", "Red", "red!", "--domain", "typed")
    assert compared.exit_code == 0
    assert "word red!" in shown(compared)
    assert "one answer in the domain typed: the domain finds them equivalent" in shown(compared)


@pytest.mark.usefixtures("typed")
def test_a_domain_that_dies_is_reported_and_the_next_text_is_read(cli: Run) -> None:
    """Its process is another one, so the command continues."""
    crashed, read = document(cli, "crash", "it is red", "--domain", "typed")
    assert (crashed["answer"], read["answer"]) == (None, "red")
    assert "the worker process exited with status 3" in crashed["note"]
    doubtful = cli("it is red", "--domain", "typed", "--reference", "crash")
    assert "crash: not decided (the worker process exited with status 3" in shown(doubtful)
    done = cli("--compare", "a", "crash", "--domain", "typed")
    assert done.exit_code == 1
    assert "this was not decided (the worker process exited with status 3" in shown(done)
    assert "so they count as different" in shown(done)


@pytest.mark.usefixtures("typed")
def test_eval_names_answers_that_could_not_be_compared(cli: Run) -> None:
    """The reason is what `leadline answers` shows."""
    rows = [{"id": f"q{i}", "prompt": "x", "answer": a} for i, a in enumerate(("crash", "18."))]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--execution.engine", "fake", "--execution.engine.answers", '["18"]')
    run = ["run", "--problems", "p.jsonl", *flags, "--domain", "typed", "--strategy.n", "2"]
    note = "1 answer could not be compared with a reference and counts as wrong"
    for command in (run, ["eval", "runs/p"]):
        done = CliRunner().invoke(leadline, command)
        assert done.exit_code == 0, done.output
        assert note in shown(done)
        assert "leadline answers --job runs/p --problem q0" in shown(done)
        assert "50.0%" in done.stdout


def test_a_hostile_text_costs_no_time() -> None:
    """As users run it, in a process of its own, on a long text of every kind of opening."""
    text = "\\boxed{" * 2000 + "\n" * 2000 + "The answer is " * 2000
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "answers", "-", "--json"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)[0]["answer"] is None
