"""Files and batches through the official client: they are jobs, and outlive their server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from counting_service import MODELS, Served, request, served

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.engines.fake.engine import problem_number

CHAT: Any = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}
ONE_ATTEMPT = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 1}), domain="number")


def row(id: str, url: str = CHAT, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Question {id}?"}]
    return {
        "custom_id": id,
        "method": "POST",
        "url": url,
        "body": {"model": "small", "messages": messages} | changes,
    }


def upload(service: Served, rows: list[dict[str, Any]]) -> str:
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    file = service.client().files.create(file=("rows.jsonl", lines.encode()), purpose="batch")
    assert (file.filename, file.bytes, file.status) == ("rows.jsonl", len(lines), "processed")
    return file.id


def create(service: Served, rows: list[dict[str, Any]], **options: Any) -> Any:
    file = upload(service, rows)
    batches = service.client().batches
    return batches.create(
        input_file_id=file, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}, **options
    )


def ended(service: Served, id: str) -> Any:
    """Return a batch once it has ended."""
    client = service.client()
    while True:
        batch = client.batches.retrieve(id)
        if batch.status in ("completed", "failed", "cancelled"):
            return batch


def lines(service: Served, file: str | None) -> dict[str, Any]:
    assert file is not None
    content = service.client().files.content(file).text
    found = [json.loads(line) for line in content.splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found)
    return {line["custom_id"]: line for line in found}


def test_a_batch_answers_each_row_and_keeps_errors_apart(service: Served) -> None:
    """Rows choose models and strategies as requests do; one that cannot be honoured is an error."""
    good = {f"r{i}": row(f"r{i}") for i in range(20)}
    good["deep"] = row("deep", model="large@2+consistency?n=3")
    good["own"] = row("own", leadline={"strategy": "adaptive?n=16", "budget": {"traces": 4}})
    good["choice"] = row("choice") | {"domain": "choice", "_media": [IMAGE]}
    bad = {
        "model": row("model", model="smal"),
        "strategy": row("strategy", model="small+consistancy"),
        "url": row("url", url="/v1/embeddings"),
        "range": row("range", temperature=-1),
        "attempts": row("attempts", model="small+consistency?n=9999"),
        "budget": row("budget", leadline={"budget": {"tokens": 10**6}}),
        "stream": row("stream", stream=True),
        "address": row("address", messages=[{"role": "user", "content": [IMAGE]}]),
    }
    batch = create(service, [*good.values(), *bad.values()])
    assert batch.metadata == {"a": "b"}
    batch = ended(service, batch.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (
        len(good) + len(bad),
        len(good),
        len(bad),
    )
    answers = lines(service, batch.output_file_id)
    assert answers.keys() == good.keys()
    numbers = {id: line["response"]["body"]["leadline"]["answer"] for id, line in answers.items()}
    assert sum(number == problem_number(id) for id, number in numbers.items()) >= 20
    errors = lines(service, batch.error_file_id)
    assert errors.keys() == bad.keys()
    named = {
        "model": "did you mean 'small'",
        "strategy": "did you mean 'consistency'",
        "url": "its url is '/v1/embeddings'; the batch is for /v1/chat/completions",
        "range": "temperature",
        "attempts": "the service allows 256",
        "budget": "at most 100,000",
        "stream": "sets 'stream'",
        "address": "fetches nothing",
    }
    for id, text in named.items():
        assert text in errors[id]["error"]["message"]
    assert numbers["choice"] is None  # a number is no letter; and what is not data is not shown
    deep = [r for r in service.counts.started if r.problem_id == "deep"]
    assert [(r.model, r.depth) for r in deep] == [("large", 2)] * 3
    assert service.client().batches.list(limit=1).data[0].id == batch.id


def test_the_same_idempotency_key_begins_one_batch(service: Served) -> None:
    """A client that repeats a request after a lost reply gets the batch that it began."""
    file = upload(service, [row("a")])
    own: Any = {"endpoint": CHAT, "completion_window": "24h"}
    own["extra_headers"] = {"Idempotency-Key": "once"}
    batches = service.client().batches
    first = batches.create(input_file_id=file, **own)
    assert batches.create(input_file_id=file, **own).id == first.id
    with pytest.raises(openai.BadRequestError, match="another batch"):
        batches.create(input_file_id=upload(service, [row("b")]), **own)
    assert ended(service, first.id).status == "completed"


def test_files_are_listed_read_and_deleted(service: Served) -> None:
    client = service.client()
    file = upload(service, [row("x")])
    later = [upload(service, [row("x")]) for _ in range(5)]
    assert [one.id for one in client.files.list()][:6] == [*reversed(later), file]
    assert client.files.retrieve(file).purpose == "batch"
    assert client.files.delete(file).deleted
    for gone in (client.files.retrieve, client.files.content):
        with pytest.raises(openai.NotFoundError):
            gone(file)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")


@pytest.mark.parametrize("id", ["batch_0", "../files", "%2e%2e%2ffiles", "file-" + "0" * 32])
def test_an_unknown_id_is_not_found(service: Served, id: str) -> None:
    with pytest.raises(openai.NotFoundError):
        service.client().batches.retrieve(id)
    with pytest.raises(openai.NotFoundError):
        service.client().files.content(id)


def test_a_batch_without_a_valid_row_fails_with_the_reason(service: Served) -> None:
    batch = ended(service, create(service, [row("only", temperature=-1)]).id)
    assert batch.status == "failed"
    assert "temperature" in batch.errors.data[0].message


def test_a_service_without_a_place_for_files_says_so(tmp_path: Path) -> None:
    none = pytest.raises(openai.InternalServerError, match="--data DIR")
    with served(ONE_ATTEMPT, str(tmp_path)) as one, none:
        one.client().files.list()


def test_a_cancelled_batch_leaves_the_engine_idle(tmp_path: Path) -> None:
    options: Any = {"hang_rate": 1.0, "data": tmp_path, "window": 4, "drain_seconds": 0.0}
    with served(ONE_ATTEMPT, str(tmp_path), **options) as one:
        batch = create(one, [row(f"r{i}") for i in range(9)])
        one.counts.wait_for(lambda c: c.n_running == 4)
        assert one.client().batches.cancel(batch.id).status == "cancelling"
        assert ended(one, batch.id).status == "cancelled"
        one.counts.wait_for(lambda c: c.n_running == 0)


def test_people_come_before_batches(tmp_path: Path) -> None:
    """With the window full of a batch, a request starts at once, and the batch gets no more."""
    options: Any = {"hang_rate": 1.0, "data": tmp_path, "window": 4, "drain_seconds": 0.0}
    with served(ONE_ATTEMPT, str(tmp_path), **options) as one:
        create(one, [row(f"r{i}") for i in range(9)])
        one.counts.wait_for(lambda c: c.n_running == 4)
        with request(one):
            one.counts.wait_for(lambda c: c.n_running == 5)
            assert one.counts.started[-1].problem_id.startswith("chatcmpl-")


@pytest.mark.slow
def test_a_batch_continues_where_its_server_was_stopped(tmp_path: Path) -> None:
    """The second server generates only what the first one had not kept."""
    rows = [row(f"r{i}") for i in range(30)]
    pace: Any = {"data": tmp_path, "window": 4, "seconds_per_token": 0.004}
    with served(ONE_ATTEMPT, f"{tmp_path} first", answers=("{hash}",), **pace) as one:
        batch = create(one, rows)
        one.counts.wait_for(lambda c: len(c.started) >= 12)
        n_before = len(one.counts.started)
    with served(ONE_ATTEMPT, f"{tmp_path} second", answers=("{hash}",), **pace) as two:
        done = ended(two, batch.id)
        assert done.request_counts.completed == 30
        answers = lines(two, done.output_file_id)
        assert {
            id: line["response"]["body"]["leadline"]["answer"] for id, line in answers.items()
        } == {f"r{i}": problem_number(f"r{i}") for i in range(30)}
        # what the first had begun is done, but for the at most four that ran when it ended
        assert len(two.counts.started) <= 30 - n_before + 4
