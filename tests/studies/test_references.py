"""From the rows of a file to right answers: ids, aliases, and what no domain can read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, PluginSpec, Result, Status
from orchestrator.jobs.problems import read_problems
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.studies.evaluate import ReferenceRow, References, reference_rows, report
from orchestrator.studies.summary import (
    correctness,
    references_in,
    require_readable,
    undecided_note,
    unreadable_notes,
)

PLUGINS = '''
import dataclasses, os
from typing import ClassVar

@dataclasses.dataclass(frozen=True)
class Plain:
    """A domain without the optional methods."""
    in_process: ClassVar[bool] = True

    def extract(self, text, finished):
        return text or None

    def canonical(self, answer):
        return "=" + answer

    def equivalent(self, a, b):
        return a == b

@dataclasses.dataclass(frozen=True)
class Apart(Plain):
    """Runs in a worker process, and accepts what is near the reference."""
    in_process: ClassVar[bool] = False
    expects: ClassVar[str] = "an integer"

    def read_reference(self, text):
        if text == "crash":
            os._exit(3)
        return str(int(text)) if text.strip().isdigit() else None

    def accepts(self, answer, reference):
        if answer == "crash":
            os._exit(3)
        return abs(int(answer) - int(reference)) <= int(reference) // 10

@dataclasses.dataclass(frozen=True)
class Near(Apart):
    """As above, in process."""
    in_process: ClassVar[bool] = True
'''


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Domains of a package of the user's own."""
    folder = tmp_path_factory.mktemp("reference_plugins")
    (folder / "reference_plugins.py").write_text(PLUGINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        from importlib import import_module

        module: Any = import_module("reference_plugins")
        domains = dict(registry._decorated["domains"])
        for name in ("Plain", "Apart", "Near"):
            domains[name.lower()] = getattr(module, name)
        patch.setitem(registry._decorated, "domains", domains)
        yield
        del sys.modules["reference_plugins"]


def write(path: Path, *answers: object) -> Path:
    rows = [{"id": f"q{i}", "prompt": "x", "answer": a} for i, a in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, domain: str, plan: Plan | None = None) -> References:
    domains = dict.fromkeys(reference_rows(path), domain)
    return references_in(path, domains, plan or Plan(), Execution())


def right(
    answers: Mapping[str, str], references: References, domain: str
) -> dict[str, bool | None]:
    results = [Result(id, Status.ANSWERED, Answer(a, a)) for id, a in answers.items()]
    domains = dict.fromkeys(answers, domain)
    return correctness(results, references.answers, domains, Plan(), Execution())


# From a file to its rows


def test_references_have_the_ids_that_problems_have(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"id": 1, "prompt": "a", "answer": "4"}\n{"prompt": "b", "answer": 0.5}\n'
        '{"id": "c", "prompt": "c", "answer": [1, true]}\n{"id": "d", "prompt": "d"}\n'
        '{"id": "e", "prompt": "e", "answer": null}\nnot json\n'
        '{"id": 1, "prompt": "f", "answer": "6"}\n{"id": "g", "prompt": "g", "answer": []}\n'
    )
    ids = [p.id for p in read_problems(path, default_domain="math").problems]
    assert reference_rows(path) == {
        ids[0]: ReferenceRow(1, "4"),
        ids[1]: ReferenceRow(2, 0.5),
        "c": ReferenceRow(3, [1, True]),
    }


def test_a_file_of_ids_and_answers_alone_is_a_file_of_references(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('id,answer\na,4\nb,"1,000"\nc,\n')
    assert reference_rows(path) == {"a": ReferenceRow(2, "4"), "b": ReferenceRow(3, "1,000")}


def test_an_openai_batch_may_carry_answers_beside_the_body(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(
        '{"custom_id": "a", "url": "/v1/completions", '
        '"body": {"prompt": "2 + 2 ="}, "answer": "4"}\n'
    )
    assert reference_rows(path) == {"a": ReferenceRow(1, "4")}


# From rows to right answers


def test_a_list_is_a_list_of_aliases(tmp_path: Path) -> None:
    """Any of them is right; what is not a text is written as JSON."""
    path = write(tmp_path / "p.jsonl", ["18", "18.0"], [1, 2.5], ["a", None], [True], "[1, 2]")
    assert read(path, "text").answers == {
        "q0": ("18", "18.0"),
        "q1": ("1", "2.5"),
        "q2": ("a",),
        "q3": ("true",),
        "q4": ("[1, 2]",),
    }
    math = read(path, "math")
    assert math.answers["q1"] == ("1", "2.5")
    assert math.answers["q4"] == ("[1, 2]",), "in quotes it is an interval or a vector"
    answers = {"q0": "18", "q1": "5/2", "q4": "1"}
    assert right(answers, math, "math") == {"q0": True, "q1": True, "q4": False}


def test_a_cell_of_csv_may_hold_a_list_of_texts(tmp_path: Path) -> None:
    """As JSON, like messages; a list of numbers is one answer, because `[1, 2]` is an interval."""
    path = tmp_path / "p.csv"
    path.write_text('id,prompt,answer\na,x,"[""18"", ""18.0""]"\nb,x,"[1, 2]"\nc,x,[]\n')
    assert {id: row.answer for id, row in reference_rows(path).items()} == {
        "a": ["18", "18.0"],
        "b": "[1, 2]",
        "c": "[]",
    }
    assert read(path, "math").answers["a"] == ("18", "18.0")


def test_an_object_is_an_answer_only_where_the_domain_says_so(tmp_path: Path) -> None:
    """Data sets keep aliases in objects of many forms; none of them would ever be right."""
    path = write(tmp_path / "p.jsonl", {"value": "Paris", "aliases": ["Paris, France"]})
    for domain in ("text", "math", "number", "choice", "code"):
        [unreadable] = read(path, domain).unreadable
        assert unreadable.text == '{"value":"Paris","aliases":["Paris, France"]}'
    assert read(path, "json").unreadable == ()


def test_a_list_of_lists_is_one_value(tmp_path: Path) -> None:
    """A matrix, say; a list that holds anything but texts, numbers and booleans has no aliases."""
    path = write(tmp_path / "p.jsonl", [[1, 2], [3, 4]])
    assert read(path, "math").answers == {"q0": ("[[1,2],[3,4]]",)}


def test_a_list_is_a_value_where_the_domain_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [1, 2], [], "[1, 2]", {"a": 1}, 5, "Paris")
    references = read(path, "json")
    assert references.answers == {
        "q0": ("[1,2]",),
        "q2": ("[1, 2]",),
        "q3": ('{"a":1}',),
        "q4": ("5",),
    }
    assert [r.problem_id for r in references.unreadable] == ["q5"], "a text needs its quotes"
    answers = {"q0": "[1.0, 2]", "q2": "1", "q3": '{"a": 1}', "q4": "5"}
    assert list(right(answers, references, "json").values()) == [True, False, True, True]


def test_an_alias_that_the_domain_cannot_read_is_left_out(tmp_path: Path) -> None:
    """No answer of the domain could equal it."""
    path = write(tmp_path / "p.jsonl", ["18", "a few", "#### 18"], ["some", "many"])
    references = read(path, "number")
    assert references.answers == {"q0": ("18",)}
    assert [(r.row, r.text) for r in references.unreadable] == [(2, "some or many")]


def test_a_domain_without_the_method_takes_references_as_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", " #### 18", " ")
    references = read(path, "plain")
    assert references.answers == {"q0": ("#### 18",)}
    assert [r.problem_id for r in references.unreadable] == ["q1"]


@pytest.mark.parametrize("domain", ["apart", "near"])
def test_a_domain_of_a_plugin_reads_and_accepts_references(tmp_path: Path, domain: str) -> None:
    """In its own process if it is not declared safe; a tolerance is anchored on the reference."""
    path = write(tmp_path / "p.jsonl", "100", "many")
    references = read(path, domain)
    assert references.answers == {"q0": ("100",)}
    assert [(r.text, r.expects) for r in references.unreadable] == [("many", "an integer")]
    assert right({"q0": "109"}, references, domain) == {"q0": True}
    assert right({"q0": "111"}, references, domain) == {"q0": False}


def test_a_domain_that_dies_of_a_reference_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", "crash", "5")
    references = read(path, "apart")
    assert references.answers == {"q1": ("5",)}
    [note] = unreadable_notes(references, path)
    assert "row 1: 'crash' (the worker process exited with status 3" in note
    assert right({"q1": "crash"}, references, "apart") == {"q1": None}, "not decided"


def test_a_domain_with_options_reads_by_them(tmp_path: Path) -> None:
    """By the options of the plan's own domain."""
    path = write(tmp_path / "p.jsonl", "E", "A")
    plan = Plan(domains={"four": PluginSpec("choice", {"letters": "ABCD"})})
    references = read(path, "four", plan)
    assert references.answers == {"q1": ("A",)}
    [note] = unreadable_notes(references, path)
    assert "cannot be read as one letter of ABCD, not an index (domain four)" in note


def test_what_is_not_decided_is_counted_and_is_wrong(tmp_path: Path) -> None:
    """Any other alias may still decide it."""
    path = write(tmp_path / "p.jsonl", 5, ["100", "5"])
    references = read(path, "apart")
    answers = {"q0": "crash", "q1": "5"}
    correct = right(answers, references, "apart")
    assert correct == {"q0": None, "q1": True}
    results = [Result(id, Status.ANSWERED, Answer(a, a)) for id, a in answers.items()]
    numbers = report(results, correct, 0.0)
    assert numbers.undecided == ("q0",)
    assert numbers.accuracy is not None
    assert (numbers.accuracy.value, numbers.accuracy.n) == (0.5, 2)
    assert undecided_note(numbers, "runs/p") == (
        "1 answer could not be compared with a reference and counts as wrong; for the reason: "
        "leadline answers --job runs/p --problem q0"
    )
    assert undecided_note(report(results, {}, 0.0), "runs/p") == ""


# What cannot be read


def test_the_note_has_the_counts_and_the_first_three_rows(tmp_path: Path) -> None:
    texts = ["18", "about a dozen", *(f"word{i}" for i in range(36)), "1", "2"]
    path = write(tmp_path / "p.jsonl", *texts)
    [note] = unreadable_notes(read(path, "number"), path)
    assert note == (
        "p.jsonl: 37 of 40 references cannot be read as one number, such as 18 (domain number) "
        "and do not count: row 2: 'about a dozen'; row 3: 'word0'; row 4: 'word1'; and 34 more. "
        "Correct them, or name another domain"
    )


def test_each_domain_has_a_note_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", "18", "x" * 100, 2, "B")
    domains = {"q0": "number", "q1": "number", "q2": "choice", "q3": "choice"}
    references = references_in(path, domains, Plan(), Execution())
    numbers, choices = unreadable_notes(references, path)
    assert "1 of 4 references cannot be read as one number" in numbers
    assert f"row 2: '{'x' * 57}...'" in numbers
    assert "1 of 4 references cannot be read as one letter of ABCDEFGHIJ, not an index" in choices
    assert "row 3: '2'" in choices


def test_only_references_of_known_problems_are_read(tmp_path: Path) -> None:
    """A file may have the references of more problems than a job has."""
    path = write(tmp_path / "p.jsonl", "18", "words", "19")
    references = references_in(path, {"q2": "number", "other": "number"}, Plan(), Execution())
    assert references == References({"q2": ("19",)})


def test_references_of_which_none_can_be_read_are_an_error(tmp_path: Path) -> None:
    """No accuracy can come of them. Without any reference there is nothing to refuse."""
    path = write(tmp_path / "p.jsonl", "few", "many")
    with pytest.raises(PlanError, match=r"2 of 2 references cannot be read .* row 1: 'few'"):
        require_readable(read(path, "number"), path)
    for path in (write(tmp_path / "some.jsonl", "1", "many"), write(tmp_path / "none.jsonl", "")):
        assert require_readable(read(path, "number"), path).answers.keys() <= {"q0"}
