"""Messages with media and calls of tools: read, kept, voted on, and given back."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.plan import Model, Plan, fingerprint
from orchestrator.core.session import prepared_prompt
from orchestrator.core.values import (
    Capability,
    Finish,
    Media,
    Message,
    PluginSpec,
    Problem,
    Request,
    Sampling,
    ToolCall,
    Trace,
    Usage,
)
from orchestrator.engines.reply import trace_for
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal.events import digest
from orchestrator.jobs.openai_batch import write_batch_output
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.rows import Rows
from orchestrator.jobs.rows.copy import write_copy
from orchestrator.plan.check import row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.plan.keys import Columns
from orchestrator.report.tables.rows import attempts_json
from orchestrator.runtime.api import run_job

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def problems_in(folder: Path, rows: list[Any], columns: Columns | None = None) -> ProblemFile:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if columns is not None:
        copy = write_copy(Rows(path, columns), folder)
        copy.keep()
        path = copy.path
    return read_problems(path, default_domain="math")


def user(*parts: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


# --- reading


def test_parts_keep_their_places_in_the_text(tmp_path: Path) -> None:
    text = {"type": "text", "text": "Is "}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    [problem] = problems_in(
        tmp_path, [{"id": "a", "messages": user(text, image("https://x/y"), sound)}]
    )
    assert problem.prompt == (
        Message(
            "user",
            "Is ",
            (
                Media("image_url", '{"url": "https://x/y"}', 3),
                Media("input_audio", '{"data": "AAAA", "format": "wav"}', 3),
            ),
        ),
    )


def test_a_file_below_the_named_folder_becomes_data_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(PNG)
    rows = [
        {"id": "path", "messages": user(image("a.png"))},
        {"id": "uri", "messages": user(image("file:a.png"))},
    ]
    file = problems_in(tmp_path, rows, Columns(media=str(tmp_path / "media")))
    (tmp_path / "media" / "a.png").unlink()
    assert {p.prompt[0].media[0].body for p in file} == {json.dumps({"url": uri(PNG)})}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("../secret.png", "is not below"),
        ("link.png", "is not below"),
        ("/etc/passwd", "is not below"),
        ("notes.txt", "is not that of an image file"),
        ("none.png", "cannot be read"),
        ("data:image/png;base64,?", "is not base64"),
        ("data:image/png,abc", "no data: URI in base64"),
        ("ftp://x/a.png", "neither a data: URI nor an http address"),
    ],
)
def test_another_address_makes_its_row_invalid(tmp_path: Path, url: str, reason: str) -> None:
    """A row names only files that the plan's user has released."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "notes.txt").write_text("x")
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"id": "a", "messages": user(image(url))}, {"id": "b", "prompt": "2+2?"}]
    [refused] = problems_in(tmp_path, rows, Columns(media=str(tmp_path / "media"))).invalid
    assert reason in refused.error


def test_without_a_folder_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [{"id": "a", "messages": user(image("a.png"))}, {"id": "b", "prompt": "2+2?"}]
    [refused] = problems_in(tmp_path, rows).invalid
    assert "columns.media names the folder" in refused.error


def test_an_image_column_stands_before_a_prompt_in_the_plans_template(tmp_path: Path) -> None:
    """As Hugging Face's data sets have it: bytes, or a path."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    cells = [{"bytes": PNG, "path": "a.png"}, None]
    parquet.write_table(pa.table({"question": ["One?", "Two?"], "picture": cells}), path)
    copy = write_copy(Rows(path, Columns(image="picture")), tmp_path)
    copy.keep()
    seen, plain = read_problems(copy.path, default_domain="math")
    assert seen.media == (Media("image_url", json.dumps({"url": uri(PNG)})),)
    assert "picture" not in seen.tags
    plan = Plan(sampling=Sampling(template="{prompt} Think."))
    assert prepared_prompt(seen, plan) == (Message("user", "One? Think.", seen.media),)
    assert prepared_prompt(plain, plan) == "Two? Think."


def test_the_content_of_media_is_part_of_a_problems_identity() -> None:
    """And a problem without any keeps the digest that earlier versions gave it."""
    prompts = [(Message("user", "x", (Media("image_url", uri(c)),)),) for c in (b"1", b"2")]
    assert len({digest(Problem("a", p)) for p in (*prompts, (Message("user", "x"),))}) == 3
    columns = [(), *((Media("image_url", uri(content)),) for content in (b"1", b"2"))]
    assert len({digest(Problem("a", "x", media=media)) for media in columns}) == 3
    assert digest(Problem("a", (Message("user", "x"),))) == "ed35119521def7853504a2728f19c88f"


# --- calls


class Calling:
    """An engine whose attempts call `add`, two of three with the same numbers."""

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Calling]:
        yield self

    async def generate(self, request: Request) -> Trace:
        arguments = ['{"a": 1, "b": 2.0}', '{"b": 2, "a": 1}', '{"a": 1, "b": 3}'][request.ordinal]
        calls = (ToolCall("add", arguments, f"c{request.ordinal}"),)
        return trace_for(
            request, Finish.STOP, text="I call: 7", calls=calls, usage=Usage(output_tokens=3)
        )

    def abort(self, request: Request) -> None: ...


async def test_the_domain_json_votes_over_calls_and_a_batch_returns_them(tmp_path: Path) -> None:
    """Values count, not their spelling, ids or the text beside; calls survive the journal."""
    body = {"model": "any", "tools": TOOLS, "messages": [{"role": "user", "content": "1+2?"}]}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row))
    plan = Plan(strategy=PluginSpec("consistency", {"n": 3}), domain="json")
    execution = Execution(engine=PluginSpec("fake"))
    file = read_problems(path, default_domain="json", require=row_requirement(plan, execution))
    with open_job(tmp_path / "job", plan, file.problems) as job:
        [result] = [r async for r in run_job(job, plan, execution, factory=Calling())]
        [line] = map(json.loads, write_batch_output(job, plan).read_text().splitlines())
        rows = attempts_json(job.journal.pool("a"), result)["attempts"]
    assert result.answer is not None
    assert json.loads(result.answer.text) == [{"name": "add", "arguments": {"a": 1, "b": 2}}]
    assert [cluster.count for cluster in result.clusters] == [2, 1]
    [choice] = line["response"]["body"]["choices"]
    function = {"name": "add", "arguments": '{"a": 1, "b": 2.0}'}
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "c0", "type": "function", "function": function}
    ]
    assert [row["calls"][0]["id"] for row in rows] == ["c0", "c1", "c2"]


def test_tools_are_a_setting_of_the_plan_too() -> None:
    plan = Plan(sampling=Sampling(extra={"tools": TOOLS}))
    assert fingerprint(plan) != fingerprint(Plan())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tools": [{"type": "function"}]}, "must be a list of"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice = 'sometimes'"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "must be true or false"),
    ],
)
def test_tools_that_are_none_are_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    """By whatever engine."""
    body = {"model": "any", "messages": [{"role": "user", "content": "1+2?"}], **settings}
    good = {"model": "any", "messages": [{"role": "user", "content": "1+3?"}]}
    path = tmp_path / "p.jsonl"
    rows = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": one}
        for name, one in (("a", body), ("b", good))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    require = row_requirement(Plan(), Execution(engine=PluginSpec("fake")))
    [refused] = read_problems(path, default_domain="math", require=require).invalid
    assert reason in refused.error
