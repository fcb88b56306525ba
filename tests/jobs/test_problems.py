"""Problem files: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Settings
from orchestrator.core.values import (
    Answer,
    Cluster,
    Finish,
    Message,
    Problem,
    Result,
    Status,
    Trace,
    Usage,
)
from orchestrator.jobs.openai_batch import output_line, returned_attempts
from orchestrator.jobs.problems import (
    ProblemFile,
    problem_from_row,
    read_problems,
)
from orchestrator.jobs.rows import Format

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file and returns its path."""

    def to(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to


def read(path: Path) -> ProblemFile:
    return read_problems(path, default_domain="math")


def rows(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def refusals(write: Write, *values: object) -> list[str]:
    """Return the errors of these rows, written after a good one so that the file is readable."""
    return [
        r.error
        for r in read(write("p.jsonl", rows({"id": "good", "prompt": "?"}, *values))).invalid
    ]


def chat(**body: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "2 + 2?"}]
    return {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt", "messages": messages, **body},
    }


def test_a_row_becomes_a_problem_without_its_answer(write: Write) -> None:
    """A strategy sees tags, so a reference in them would leak."""
    file = read(
        write(
            "p.jsonl",
            rows(
                {
                    "id": 7,
                    "prompt": "2 + 2?",
                    "answer": "4",
                    "domain": "number",
                    "level": 1,
                    "of": [None],
                }
            ),
        )
    )
    assert file.problems == (Problem("7", "2 + 2?", "number", '{"level":1,"of":[null]}'),)
    assert (file.invalid, file.warnings, file.order, file.format) == ((), (), ("7",), Format.JSONL)


def test_messages_are_read_and_text_parts_joined(write: Write) -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    row = {
        "id": "a",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts},
        ],
    }
    assert read(write("p.jsonl", rows(row))).problems[0].prompt == (
        Message("system", "Be brief."),
        Message("user", "2 + 2?"),
    )


def test_a_bad_line_is_a_result_that_names_file_and_line_and_the_rest_goes_on(write: Write) -> None:
    file = read(
        write("p.jsonl", '{"id": "a", "prompt": "x"}\n\n{"id": "b", \n{"id": "c", "prompt": "y"}\n')
    )
    assert [p.id for p in file.problems] == ["a", "c"]
    [bad] = file.invalid
    assert (bad.problem_id, bad.status) == ("p.jsonl:3", Status.INVALID)
    assert bad.error.startswith("p.jsonl:3: ")
    assert file.order == ("a", "p.jsonl:3", "c")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "a", "prompt": 3}, ["prompt is a number", "text"]),
        ({"id": "a", "prompt": "  "}, ["prompt is empty"]),
        (
            {"id": "a", "instruction": "Add.", "input": "2 2"},
            ["neither 'prompt' nor 'messages'", "'instruction' or 'input'", "columns.prompt"],
        ),
        (
            {"level": 3},
            ["neither 'prompt' nor 'messages'"],
        ),
        (
            {"id": "a", "prompt": "x", "messages": [{"role": "user", "content": "y"}]},
            ["both", "keep one"],
        ),
        ({"id": "a", "messages": []}, ["an empty list", "at least one message"]),
        ({"id": "a", "messages": "hello"}, ["not JSON"]),
        ({"id": "a", "messages": ["hello"]}, ["message 1 is a text", "'role' and 'content'"]),
        ({"id": "a", "messages": [{"role": "user"}]}, ["message 1 has no content"]),
        ({"id": "a", "messages": [{"role": "user", "content": 3}]}, ["a number as content"]),
        (
            {"id": "a", "messages": [{"role": "usr", "content": "x"}]},
            ["'usr' (did you mean 'user'?)", "system, user, assistant"],
        ),
        ({"id": "a", "messages": [{"role": "user", "content": " "}]}, ["messages are empty"]),
        (
            {"id": "a", "messages": [{"role": "user", "content": "x", "tool_calls": [1]}]},
            ["'tool_calls'", "remove it"],
        ),
        (
            {"id": "a", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            ["message 1 has an image_url: it must be an object"],
        ),
        ({"id": "", "prompt": "x"}, ["id is ''"]),
        ({"id": True, "prompt": "x"}, ["id is True", "whole number"]),
        ({"id": 1.5, "prompt": "x"}, ["id is 1.5"]),
        ({"id": "p.jsonl:9", "prompt": "x"}, ["kept for rows without a usable id"]),
        (
            {"id": "a", "prompt": "x", "domain": "maths"},
            ["no domain 'maths' (did you mean 'math'?)", "number"],
        ),
        ({"id": "a", "prompt": "x", "domain": 3}, ["no domain 3"]),
        ([1, 2], ["a row is an object", "[1, 2]"]),
        ("text", ["a row is an object"]),
    ],
)
def test_a_row_that_is_no_problem_says_what_is_wrong(
    write: Write, row: object, words: list[str]
) -> None:
    [error] = refusals(write, row)
    assert error.startswith("p.jsonl:2: ")
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"', "[" * 100_000, "'x'"]
)
def test_what_json_does_not_have_is_an_invalid_row(write: Write, literal: str) -> None:
    """The standard library reads NaN and lone surrogates, and then the result cannot be written."""
    file = read(
        write(
            "p.jsonl",
            f'{{"id": "a", "prompt": "x"}}\n{{"id": "b", "prompt": "x", "score": {literal}}}\n',
        )
    )
    assert [r.problem_id for r in file.invalid] == ["p.jsonl:2"]
    assert ("write null" in file.invalid[0].error) == (literal.strip("-") in ("NaN", "Infinity"))


def test_a_repeated_id_invalidates_the_later_row_and_names_both_lines(write: Write) -> None:
    file = read(
        write(
            "p.jsonl",
            rows({"id": 1, "prompt": "x"}, {"id": "b", "prompt": "x"}, {"id": "1", "prompt": "y"}),
        )
    )
    assert [p.id for p in file.problems] == ["1", "b"]
    assert file.invalid[0].problem_id == "p.jsonl:3"
    assert "line 1" in file.invalid[0].error
    assert "p.jsonl:3" in file.invalid[0].error


def test_a_row_that_is_bad_in_another_way_keeps_its_own_id(write: Write) -> None:
    """Its error must be joined to it, in an OpenAI batch by custom_id; and nobody else may take the
    id.
    """
    file = read(
        write(
            "p.jsonl",
            rows({"id": "a", "prompt": 3}, {"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}),
        )
    )
    assert [r.problem_id for r in file.invalid] == ["a", "p.jsonl:2"]
    assert file.order == ("a", "p.jsonl:2", "b")


@settings(deadline=None)  # the machine is shared
@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique=True),
    st.randoms(use_true_random=False),
)
def test_derived_ids_do_not_depend_on_order_nor_on_answers(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], rng: random.Random
) -> None:
    """Otherwise sorting a file, or adding references, would lose all work done on it."""
    folder = tmp_path_factory.mktemp("ids")
    shuffled = rng.sample(prompts, len(prompts))
    (folder / "a.jsonl").write_text(rows(*({"prompt": p} for p in prompts)))
    (folder / "b.jsonl").write_text(
        rows(*({"answer": "4", "prompt": p, "tag": 1} for p in shuffled))
    )
    ids = [
        {p.prompt: p.id for p in read(folder / name).problems} for name in ("a.jsonl", "b.jsonl")
    ]
    assert ids[0] == ids[1]


def test_missing_ids_are_warned_of_once_and_a_repeated_question_is_refused(write: Write) -> None:
    file = read(write("p.jsonl", rows({"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"})))
    assert len(file.problems) == 2
    assert len(file.warnings) == 1
    assert "2 rows have no id" in file.warnings[0]
    assert "its prompt is already that of line 1" in file.invalid[0].error


def test_bom_crlf_blank_lines_unusual_line_ends_and_long_lines_are_fine(write: Write) -> None:
    long = "x" * 3_000_000
    text = (
        '{"id": "a", "prompt": "x\u2028y"}\r\n\r\n   \n'
        + json.dumps({"id": "b", "prompt": long})
        + "\r\n"
    )
    file = read(write("p.jsonl", b"\xef\xbb\xbf" + text.encode()))
    assert [p.prompt for p in file.problems] == ["x\u2028y", long]
    assert not file.invalid


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b"", "is empty"),
        ("p.jsonl", b"\xef\xbb\xbf", "is empty"),
        ("p.jsonl", b"\n \n", "contains no rows"),
        ("p.jsonl", b'{"id": 1}\n', "none of its 1 rows"),
        ("p.jsonl", b"\x00\x01\x02", "binary"),
        (
            "p.jsonl",
            b'{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "\xe9"}\n',
            ":2: byte 24 is not UTF-8",
        ),
        ("p.jsonl", '{"id": "a", "prompt": "x"}'.encode("utf-16"), "iconv -f UTF-16"),
        ("p.txt", b"What is 2 + 2?\n", "let it end in .jsonl, .csv, .tsv, .parquet or .arrow"),
        ("p.parquet", b"id,prompt\n", "not a Parquet file"),
        ("p.parquet", b"PAR1 and nothing more", "cannot be read as Parquet"),
        ("p.csv", b"What is 2 + 2?\nWhat is 3?\n", "header with 'prompt'"),
        ("p.csv", b"id,prompt,prompt\n", "'prompt' twice"),
        ("p.csv", b"id,prompt\n", "contains no rows"),
        ("p.csv", b'id,"pro"mpt\n', "header is not CSV"),
    ],
)
def test_a_file_without_any_problem_is_a_plan_error(
    write: Write, name: str, content: bytes, words: str
) -> None:
    path = write(name, content)
    with pytest.raises(PlanError) as caught:
        read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_damaged_parquet_file_is_a_plan_error(tmp_path: Path) -> None:
    """Wherever it is damaged: its readers raise OSError and UnicodeDecodeError, too."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    columns = {"id": [f"q{i}" for i in range(40)], "prompt": [f"What is {i}²?" for i in range(40)]}
    parquet.write_table(pyarrow.table(columns), path, compression="none", use_dictionary=False)
    whole, rng = path.read_bytes(), random.Random(0)
    errors = []
    for _ in range(300):
        place = rng.randrange(len(whole))
        changed = bytes(b ^ rng.randrange(1, 256) for b in whole[place : place + 4])
        path.write_bytes(whole[:place] + changed + whole[place + 4 :])
        try:
            read(path)
        except PlanError as error:
            errors.append(error)
    causes = {type(error.__cause__) for error in errors}
    assert {OSError, UnicodeDecodeError} <= causes
    assert all(str(path) in str(error) for error in errors)


def test_a_missing_file_and_an_empty_directory_are_plan_errors(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no file"):
        read(tmp_path / "no.jsonl")
    with pytest.raises(PlanError, match="contains no file of problems"):
        read(tmp_path)


def test_csv_rows_are_read_with_quotes_line_ends_and_messages_as_json(write: Write) -> None:
    text = (
        'id,prompt,messages,level\r\na,"1,\n""2""?",,3\r\n\r\n,x,,\r\n'
        'c,,"[{""role"": ""user"", ""content"": ""y""}]",\r\n'
    )
    file = read(write("p.csv", text))
    assert [p.prompt for p in file.problems] == ['1,\n"2"?', "x", (Message("user", "y"),)]
    assert file.problems[0].tags == '{"level":"3"}'
    assert file.format is Format.CSV
    assert "1 rows have no id" in file.warnings[0]


def test_a_bad_csv_row_names_the_line_it_starts_on_and_the_rest_goes_on(write: Write) -> None:
    file = read(
        write(
            "p.csv",
            'id,prompt\na,"x\ny"\nb,too,many\nc,"q"uoted\nd,fine\ne,"never closed\nf,lost\n',
        )
    )
    assert [p.id for p in file.problems] == ["a", "d"]
    assert [r.problem_id for r in file.invalid] == ["p.csv:4", "p.csv:5", "p.csv:7"]
    assert "3 fields and the header 2" in file.invalid[0].error


def test_a_csv_field_may_be_longer_than_the_csv_module_allows_by_default(write: Write) -> None:
    import csv

    limit = csv.field_size_limit()
    assert (
        len(read(write("p.csv", "prompt\n" + "x" * 300_000 + "\n")).problems[0].prompt) == 300_000
    )
    assert csv.field_size_limit() == limit


def test_parquet_rows_are_read_and_found_by_content(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    columns = {
        "id": [1, 2, None],
        "prompt": ["x", None, "z"],
        "score": [0.5, None, 1.0],
        "answer": ["4", None, "5"],
    }
    path = tmp_path / "problems"
    parquet.write_table(pyarrow.table(columns), path)
    file = read(path)
    assert [p.prompt for p in file.problems] == ["x", "z"]
    assert file.problems[0] == Problem("1", "x", "math", '{"score":0.5}')
    assert [r.problem_id for r in file.invalid] == ["2"]
    assert file.format is Format.PARQUET


def test_a_json_file_may_be_one_array_of_rows(write: Write) -> None:
    """As many data sets are published; rows are counted from 1."""
    array = '[\n{"id":"a","prompt":"1+1?","answer":"2"},\n{"id":"b","prompt":"2+2?"}, 7\n]'
    file = read(write("p.json", array))
    assert [(p.id, p.prompt, p.tags) for p in file.problems] == [
        ("a", "1+1?", "{}"),
        ("b", "2+2?", "{}"),
    ]
    [bad] = file.invalid
    assert bad.error == "p.json:3: a row is an object, {...}, not 7"
    assert file.format is Format.JSON
    lines = read(write("lines.json", rows({"id": "a", "prompt": "x"})))
    assert lines.format is Format.JSONL, "one row per line is read under either name"
    for content, words in (("[]", "contains no rows"), ('[{"id": 1}', "is not a JSON array")):
        with pytest.raises(PlanError, match=words):
            read(write("p.json", content))


def test_one_question_has_one_derived_id_in_every_format(tmp_path: Path, write: Write) -> None:
    """A file that is converted keeps the work done on it."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"prompt": ["2 + 2?"]}), tmp_path / "p.parquet")
    write("p.csv", "prompt\n2 + 2?\n")
    write("p.jsonl", rows({"prompt": "2 + 2?"}))
    assert (
        len(
            {
                read(tmp_path / f"p.{suffix}").problems[0].id
                for suffix in ("parquet", "csv", "jsonl")
            }
        )
        == 1
    )


def test_an_openai_batch_is_recognised_and_fields_without_effect_are_named_once(
    write: Write,
) -> None:
    completion = {
        "custom_id": "b",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": "2 + 2 =", "user": "me", "store": True},
    }
    extra = {"answer": "4", "domain": "number", "level": 3}
    file = read(write("batch.jsonl", rows({**chat(n=1, stream=False), **extra}, completion)))
    assert file.format is Format.OPENAI_BATCH
    assert [(p.id, p.domain) for p in file.problems] == [("a", "number"), ("b", "math")]
    assert file.problems[0].prompt == (Message("user", "2 + 2?"),)
    assert file.problems[1].prompt == "2 + 2 ="
    assert json.loads(file.problems[0].tags)["level"] == 3
    assert "answer" not in file.problems[0].tags
    [warning] = file.warnings
    assert "model, store, user in up to 1 rows have no effect" in warning


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        ({}, {}),
        ({"n": 1}, {}),
        ({"n": 4, "seed": 7}, {"n": 4, "seed": 7}),
        (
            {"temperature": 0.1, "top_p": 0.5, "max_tokens": 9, "stop": "END"},
            {
                "sampling": {
                    "temperature": 0.1,
                    "top_p": 0.5,
                    "max_new_tokens": 9,
                    "stop": ["END"],
                }
            },
        ),
        (
            {"max_completion_tokens": 9, "top_k": -1},
            {"sampling": {"max_new_tokens": 9, "top_k": 0}},
        ),
        ({"thinking_token_budget": 64}, {"sampling": {"thinking_tokens": 64}}),
        (
            {"presence_penalty": 0.5, "logit_bias": {"1": -100}, "bad_words": []},
            {"sampling": {"extra": {"presence_penalty": 0.5, "logit_bias": {"1": -100}}}},
        ),
        (
            {"extra_body": {"guided_choice": ["A", "B"]}, "response_format": {"type": "text"}},
            {"sampling": {"extra": {"guided_choice": ["A", "B"]}}},
        ),
    ],
)
def test_what_a_batch_row_sets_is_that_of_its_problem(
    write: Write, body: dict[str, object], settings: dict[str, object]
) -> None:
    [problem] = read(write("batch.jsonl", rows(chat(**body)))).problems
    assert json.loads(problem.settings or "{}") == settings


def test_a_row_that_the_engine_cannot_honour_is_invalid_and_names_what(write: Write) -> None:
    def require(settings: Settings, media: frozenset[str] = frozenset()) -> None:
        if "guided_json" in settings.sampling.get("extra", {}):  # type: ignore[operator]
            raise PlanError("no guided_json here")

    path = write("batch.jsonl", rows(chat(), {**chat(guided_json={}), "custom_id": "b"}))
    file = read_problems(path, default_domain="math", require=require)
    [bad] = file.invalid
    assert bad.problem_id == "b"
    assert "no guided_json here" in bad.error


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (chat(stream=True), "'stream'"),
        (chat(functions=[{"name": "f"}]), "'functions'"),
        (chat(top_logprobs=2), "'top_logprobs' without 'logprobs'"),
        (chat(logprobs=True, top_logprobs=21), "sampling.top_logprobs = 21"),
        (chat(logprobs="yes"), "sampling.logprobs = 'yes'"),
        (chat(continue_final_message=True, add_generation_prompt=False), "'continue_final_"),
        (chat(n=2.5), "'n' to 2.5"),
        (chat(seed=True), "'seed' to True"),
        (chat(temperature=-1), "sampling.temperature = -1"),
        (chat(max_tokens="many"), "sampling.max_new_tokens = 'many'"),
        (chat(stop=[""]), "sampling.stop"),
        (chat(thinking_token_budget=0), "'thinking_token_budget' to 0; the least is 1"),
        (chat(thinking_token_budget=-1), "sampling.thinking_tokens = -1"),
        ({**chat(), "method": "GET"}, "method is 'GET'"),
        ({**chat(), "url": "/v1/embeddings"}, "/v1/embeddings"),
        ({**chat(), "body": "x"}, "body is missing or not an object"),
        ({"custom_id": "a", "url": "/v1/completions", "body": {}}, "no 'prompt'"),
        (
            {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": ["x", "y"]}},
            "prompt is a list",
        ),
    ],
)
def test_a_batch_row_that_asks_for_what_cannot_be_given_is_invalid(
    write: Write, row: dict[str, object], words: str
) -> None:
    file = read(write("batch.jsonl", rows({**chat(), "custom_id": "good"}, row)))
    [bad] = file.invalid
    assert bad.problem_id == "a"
    assert words in bad.error


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read_in_order(write: Write) -> None:
    """Takes about a second; the suite's limit on a test is the only clock."""
    text = "".join(
        f'{{"id": {i}, "prompt": "What is {i} + 1?", "answer": {i + 1}}}\n' for i in range(100_000)
    )
    file = read(write("p.jsonl", text))
    assert list(file.order) == list(map(str, range(100_000)))
    assert (file.order[-1], file.order[77_777:77_779]) == ("99999", ["77777", "77778"])


def test_domains_that_a_plan_names_may_be_used_by_rows(write: Write) -> None:
    path = write("p.jsonl", rows({"id": "a", "prompt": "x", "domain": "prices"}))
    assert (
        read_problems(path, default_domain="math", domains=("prices",)).problems[0].domain
        == "prices"
    )


def test_a_mapping_is_read_as_a_row_of_a_file_is(write: Write) -> None:
    row = {"prompt": "2 + 2?", "level": 1}
    assert problem_from_row(row, "math") == read(write("p.jsonl", rows(row))).problems[0]
    with pytest.raises(PlanError, match="prompt is a number"):
        problem_from_row({"id": "a", "prompt": 3}, "math")


def test_an_output_line_holds_the_whole_text_the_answer_and_the_sums() -> None:
    clusters = (Cluster(Answer("4", "=4"), (0, 1, 3), 0.9), Cluster(Answer("5", "=5"), (2,), 0.5))
    usage = {"solve": Usage(10, 4, 30), "pruned": Usage(10, 10, 5)}
    result = Result("a", Status.ANSWERED, Answer("4", "=4"), clusters, usage, fingerprint="f")
    line = output_line(result, [Trace(0, "2 + 2 is 4.")], "smollm2")
    assert line == json.loads(json.dumps(line))
    assert line["custom_id"] == "a"
    assert line["error"] is None
    body = line["response"]["body"]  # type: ignore[index]  # the line is plain JSON
    assert body["choices"][0]["message"]["content"] == "2 + 2 is 4."
    assert body["usage"]["prompt_tokens"] == 20
    assert body["usage"]["completion_tokens"] == 35
    assert body["usage"]["total_tokens"] == 55
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 14}
    assert body["leadline"] == {"answer": "4", "share": 0.75, "status": "answered"}


def test_an_output_line_has_the_thinking_apart() -> None:
    """As DeepSeek and vLLM send it; the forced `</think>` between two traces is in neither."""
    begun = Trace(0, "<think>6*7", thinking_spans=((7, 10),), reply_spans=())
    ended = Trace(1, "It is 42.", parent=0, reply_spans=((0, 9),), usage=Usage(output_tokens=3))
    answer = Answer("42", "=42")
    result = Result(
        "a",
        Status.ANSWERED,
        answer,
        (Cluster(answer, (1,), 1.0),),
        {"solve": Usage(output_tokens=9, reasoning_tokens=4)},
    )
    line = output_line(result, returned_attempts([begun, ended], result), "smollm2")
    body = line["response"]["body"]  # type: ignore[index]  # the line is plain JSON
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("It is 42.", "6*7")
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


def test_thinking_of_a_job_of_an_earlier_version_is_told_by_tags() -> None:
    answer = Answer("42", "=42")
    result = Result("a", Status.ANSWERED, answer, (Cluster(answer, (0,), 1.0),))
    attempts = returned_attempts([Trace(0, "<think>6*7</think>\n42")], result)
    message = output_line(result, attempts, "m")["response"]["body"]["choices"][0]["message"]  # type: ignore[index]  # plain JSON
    assert (message["reasoning_content"], message["content"]) == ("6*7", "42")


def test_a_row_with_n_gets_that_many_choices_the_chosen_one_first() -> None:
    pool = [Trace(i, text) for i, text in enumerate(("It is 3.", "It is 4.", "4, I think.", "5"))]
    clusters = (Cluster(Answer("4", "=4"), (1, 2), 2.0), Cluster(Answer("3", "=3"), (0,), 1.0))
    result = Result("a", Status.ANSWERED, clusters[0].answer, clusters, tags='{"body":{"n":3}}')
    line = output_line(result, returned_attempts(pool, result), "m")
    choices = line["response"]["body"]["choices"]  # type: ignore[index]  # plain JSON
    texts = [choice["message"]["content"] for choice in choices]
    assert texts == ["It is 4.", "It is 3.", "4, I think."]
    assert [choice["index"] for choice in choices] == [0, 1, 2]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [(Finish.STOP, "stop"), (Finish.LENGTH, "length"), (Finish.RULE, "stop")],
)
def test_an_output_line_says_whether_its_text_was_cut(finish: Finish, reason: str) -> None:
    """Of the whole attempt: what ended by a checkpoint and was continued is not cut."""
    pool = [Trace(0, "So", finish=Finish.LENGTH), Trace(1, " 4", parent=0, finish=finish)]
    cluster = Cluster(Answer("4", "=4"), (1,), 1.0)
    result = Result("a", Status.ANSWERED, cluster.answer, (cluster,))
    body = output_line(result, returned_attempts(pool, result), "m")["response"]["body"]  # type: ignore[index]  # plain JSON
    assert body["choices"][0]["finish_reason"] == reason
    assert body["choices"][0]["message"]["content"] == "So 4"


@pytest.mark.parametrize("status", [Status.INVALID, Status.FAILED])
def test_an_output_line_of_a_failure_is_an_error_and_no_response(status: Status) -> None:
    line = output_line(Result("a", status, error="why"), [], "smollm2")
    assert line["response"] is None
    assert line["error"] == {"code": status.value, "message": "why"}


def test_an_abstention_is_a_response_without_an_answer() -> None:
    line = output_line(Result("a", Status.ABSTAINED), [], "smollm2")
    assert line["response"]["body"]["leadline"] == {
        "answer": None,
        "share": None,
        "status": "abstained",
    }  # type: ignore[index]  # plain JSON
