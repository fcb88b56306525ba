"""Rows from every format and place: which are read or refused, and what a refusal says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.rows import Row, Rows
from orchestrator.jobs.rows.copy import COPY_FILE, write_copy
from orchestrator.jobs.rows.formats.text import json_array
from orchestrator.jobs.rows.location import selected
from orchestrator.jobs.rows.record import Document
from orchestrator.plan.keys import Columns

TABLE = [{"id": "a", "prompt": "1+1?", "answer": "2"}, {"id": "b", "prompt": "2+2?", "answer": "4"}]


def jsonl(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def essence(rows: Rows) -> list[tuple[str, object, object, str]]:
    return [(r.id, r.fields.get("prompt"), r.fields.get("answer"), r.error) for r in rows]


def cells(delimiter: str) -> str:
    return "\n".join(map(delimiter.join, (TABLE[0], *(row.values() for row in TABLE))))


def as_parquet(path: Path, table: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(table), path)


def as_arrow(path: Path, *, stream: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    table = pyarrow.Table.from_pylist(TABLE)
    writer = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with writer(path, table.schema) as file:
        file.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.jsonl", lambda p: p.write_text(jsonl(*TABLE))),
        ("p.json", lambda p: p.write_text(json.dumps(TABLE, indent=1))),
        ("p.csv", lambda p: p.write_text(cells(","))),
        ("p.csv", lambda p: p.write_text(cells(";"))),
        ("p.csv", lambda p: p.write_text(cells("|"))),
        ("p.tsv", lambda p: p.write_text(cells("\t"))),
        ("p.parquet", lambda p: as_parquet(p, TABLE)),
        ("p.arrow", lambda p: as_arrow(p, stream=False)),
        ("p.arrow", lambda p: as_arrow(p, stream=True)),
        ("p.jsonl.gz", lambda p: p.write_bytes(gzip.compress(jsonl(*TABLE).encode()))),
        ("p.csv.bz2", lambda p: p.write_bytes(bz2.compress(cells(",").encode()))),
    ],
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert essence(Rows(tmp_path / name)) == [("a", "1+1?", "2", ""), ("b", "2+2?", "4", "")]


def document(content: bytes) -> Document:
    return Document("p.json", "p.json", lambda: io.BytesIO(content))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)),
    st.integers(2, 9),
)
def test_an_array_is_read_piece_by_piece_as_a_whole(values: list[object], size: int) -> None:
    """However the pieces fall: numbers, texts and literals are cut in the middle."""
    from orchestrator.jobs.rows.formats import text

    content = json.dumps([{"v": value} for value in values], indent=1)
    before, text._CHUNK = text._CHUNK, size
    try:
        read = [dict(record.fields) for record in json_array(document(content.encode()))]
    finally:
        text._CHUNK = before
    assert read == [{"v": value} for value in values]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"a": 1}', "ends before the array does"),
        ('[{"a": 1} {"a": 2}]', "expected , or ]"),
        ('[{"a": 1}] 7', "there is more behind its end"),
        ('[{"a": NaN}]', "no NaN"),
        ('[{"a": 1},]', "not a JSON array"),
        ("[", "ends before"),
        ('[{"a": "never closed}]', "not a JSON array"),
    ],
)
def test_an_array_that_is_none_is_refused(content: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        list(json_array(document(content.encode())))


def test_a_folder_and_a_pattern_are_read_in_order_of_names(tmp_path: Path) -> None:
    """Ids are unique over all files, and a place names its file."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.jsonl").write_text(
        jsonl({"id": "x", "prompt": "3"}, {"id": "x", "prompt": "4"})
    )
    (tmp_path / "a.csv").write_text("id,prompt\nx,1\ny,2\n")
    (tmp_path / "README.md").write_text("not data")
    for name in ("dataset_infos.json", "dataset_dict.json", "state.json"):
        (tmp_path / name).write_text("{}")
    rows = list(Rows(tmp_path))
    assert [(r.place, r.fields["prompt"]) for r in rows] == [
        ("a.csv:2", "1"),
        ("a.csv:3", "2"),
        ("in/b.jsonl:1", "3"),
        ("in/b.jsonl:2", "4"),
    ]
    assert "already that of a.csv:2" in rows[2].error
    pattern = [r.fields["prompt"] for r in Rows(f"{tmp_path}/**/*.jsonl")]
    assert pattern == ["3", "4"]
    with pytest.raises(PlanError, match="no file matches"):
        Rows(f"{tmp_path}/*.parquet")


@pytest.mark.parametrize(
    ("query", "files"),
    [
        ({"name": "main", "split": "test"}, ["main/test-00000-of-00001.parquet"]),
        ({"name": "main", "split": "train"}, ["main/train-00000-of-00001.parquet"]),
        ({"name": "gpqa_diamond", "split": "train"}, ["gpqa_diamond.csv"]),
        ({"name": "AIME2025-I"}, ["aime2025-I.jsonl"]),
    ],
)
def test_a_data_set_is_selected_by_the_names_of_its_files(
    query: dict[str, str], files: list[str]
) -> None:
    there = [
        "README.md",
        "main/train-00000-of-00001.parquet",
        "main/test-00000-of-00001.parquet",
        "socratic/test-00000-of-00001.parquet",
        "gpqa_diamond.csv",
        "gpqa_main.csv",
        "aime2025-I.jsonl",
        "aime2025-II.jsonl",
        ".cache/main/test.parquet",
    ]
    assert selected(there, query, "x") == files


def test_what_a_data_set_lacks_is_refused_with_what_it_has() -> None:
    there = ["data/train-0.parquet", "data/test-0.parquet"]
    with pytest.raises(PlanError, match=r"no file of split 'dev'; it has: data/train-0.parquet"):
        selected(there, {"split": "dev"}, "x")
    with pytest.raises(PlanError, match=r"the splits test, train; name one: x\?split=test"):
        selected(there, {}, "x")


def test_a_uri_is_read_through_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra `remote` is not installed")
    fs = fsspec.filesystem("memory")
    as_parquet(tmp_path / "test-0.parquet", TABLE)
    fs.pipe("/set/main/test-0.parquet", (tmp_path / "test-0.parquet").read_bytes())
    fs.pipe("/set/main/train-0.jsonl", jsonl({"id": "t", "prompt": "?"}).encode())
    expected = [("a", "1+1?", "2", ""), ("b", "2+2?", "4", "")]
    for uri in (
        "memory://set/main/test-0.parquet",
        "memory://set/main?split=test",
        "memory://set/**/*.parquet",
    ):
        assert essence(Rows(uri)) == expected, uri
    with pytest.raises(PlanError, match=r"memory://set/none.jsonl"):
        list(Rows("memory://set/none.jsonl"))
    with pytest.raises(PlanError, match="nofs"):
        Rows("nofs://x/y.jsonl")


def test_standard_input_is_any_format(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (jsonl(*TABLE), json.dumps(TABLE), cells(","), cells(";")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert [r.id for r in Rows("-")] == ["a", "b"], text


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.parquet"])
def test_columns_are_mapped_and_their_values_are_no_tags(tmp_path: Path, name: str) -> None:
    row = {"q": "2+2?", "gold": "4", "key": "k1", "level": "easy", "solution": "two and two"}
    path = tmp_path / name
    if name == "p.jsonl":
        path.write_text(jsonl(row))
    elif name == "p.csv":
        path.write_text("\n".join(map(",".join, (row, row.values()))))
    else:
        as_parquet(path, [row])
    columns = Columns(id="{key}-{level}", prompt="q", answer="gold", omit=("solution",))
    [read] = Rows(path, columns)
    assert (read.id, read.error, read.derived) == ("k1-easy", "", False)
    assert read.fields == {"prompt": "2+2?", "answer": "4", "key": "k1", "level": "easy"}


def test_a_column_that_is_not_there_is_an_error_with_the_near_match(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,question\na,x\n")
    with pytest.raises(
        PlanError, match=r"no column 'qestion' \(did you mean 'question'\?\) \(columns.prompt\)"
    ):
        list(Rows(tmp_path / "p.csv", Columns(prompt="qestion")))
    (tmp_path / "p.jsonl").write_text(
        jsonl({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y", "gold": 1})
    )
    rows = list(Rows(tmp_path / "p.jsonl", Columns(answer="gold")))
    assert [r.fields.get("answer") for r in rows] == [None, 1]
    with pytest.raises(
        PlanError, match=r"no column 'glod' \(did you mean 'gold'\?\) \(columns.answer\)"
    ):
        list(Rows(tmp_path / "p.jsonl", Columns(answer="glod")))
    [bad] = [r for r in Rows(tmp_path / "p.jsonl", Columns(prompt="gold")) if r.error]
    assert bad.error == "its column 'gold' (columns.prompt) is empty"


def test_a_column_is_guessed_where_it_is_unmistakable_and_the_guess_is_reported(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question,final_answer\n2+2?,4\n")
    file = read_problems(path, default_domain="math")
    assert [p.prompt for p in file.problems] == ["2+2?"]
    assert "answer" not in file.problems[0].tags
    assert file.warnings[:2] == (
        "p.csv: the column 'question' is read as 'prompt'; columns.prompt names another",
        "p.csv: the column 'final_answer' is read as 'answer'; columns.answer names another",
    )
    path.write_text("instruction,input\nAdd.,2 2\n")
    with pytest.raises(PlanError, match=r"columns.prompt"):
        read_problems(path, default_domain="math")


CHOICES = Columns(prompt="q", answer="right", wrong=("w1", "w2", "w3"))


def test_choices_are_lettered_in_an_order_that_the_id_decides(tmp_path: Path) -> None:
    """The same order each time; over many questions every letter is right about as often."""
    path = tmp_path / "p.jsonl"
    rows = [
        {"id": str(i), "q": "Which?", "right": "R", "w1": "A", "w2": "B", "w3": "C"}
        for i in range(400)
    ]
    path.write_text(jsonl(*rows))
    first, again = list(Rows(path, CHOICES)), list(Rows(path, CHOICES))
    assert first == again
    for row in first:
        assert f"{row.fields['answer']}) R" in row.fields["prompt"]
        assert sorted(line[3:] for line in row.fields["prompt"].split("\n")[2:]) == [
            "A",
            "B",
            "C",
            "R",
        ]
        assert not {"right", "w1", "w2", "w3"} & row.fields.keys()
    counts = [sum(r.fields["answer"] == letter for r in first) for letter in "ABCD"]
    # binomial(400, 1/4): mean 100, deviation 8.7; 6 deviations: P < 1e-8
    assert all(48 < n < 152 for n in counts)


def test_a_row_without_all_its_choices_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    whole = {"id": "a", "q": "?", "right": "R", "w1": "A", "w2": "B", "w3": "C"}
    path.write_text(jsonl(whole, {**whole, "id": "b", "w2": None}))
    assert [bool(row.error) for row in Rows(path, CHOICES)] == [False, True]


def test_a_copy_reads_back_as_the_same_rows(tmp_path: Path) -> None:
    """With the places, errors and ids that they had where they came from."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(
        '{"prompt": "no id"}\n{broken\n' + jsonl({"id": "b", "prompt": 3})
    )
    (folder / "b.csv").write_text('id,prompt,answer\nc,x,"[""1"",""2""]"\nb,twice,\n')
    out = tmp_path / "out"
    out.mkdir()
    copy = write_copy(Rows(folder), out)
    copy.keep()

    def known(row: Row) -> tuple[object, ...]:
        return row.id, dict(row.fields), row.error, row.derived, row.place

    assert list(map(known, Rows(out / COPY_FILE))) == list(map(known, Rows(folder)))
    file = read_problems(out / COPY_FILE, default_domain="math")
    assert [r.error.split(": ")[0] for r in file.invalid] == ["a.jsonl:2", "a.jsonl:3", "b.csv:3"]
    assert sorted(p.name for p in out.iterdir()) == [COPY_FILE]


def test_a_batch_keeps_its_meaning_in_a_copy(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "2+2?"}], "temperature": 0}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in.jsonl").write_text(jsonl(row))
    write_copy(Rows(tmp_path / "in.jsonl"), tmp_path).keep()
    [direct] = read_problems(tmp_path / "in.jsonl", default_domain="math").problems
    file = read_problems(tmp_path / COPY_FILE, default_domain="math")
    assert file.problems == (direct,)
    assert file.format.value == "openai-batch"
