"""`--server URL`: solve and run use the engines of a running service, and change nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from counting_service import ANSWERS, MODELS, SECONDS, Served, served
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.main import leadline
from orchestrator.core.plan import Plan
from orchestrator.core.values import (
    ConfidenceFloor,
    Delimiter,
    Finish,
    Media,
    Message,
    PluginSpec,
    Purpose,
    Request,
    Sampling,
    WordLimit,
)
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import plan_toml
from orchestrator.serve.sharing.remote import KEY_VARIABLE, RemoteEngines, connect
from orchestrator.serve.sharing.wire import GENERATE, PATH, Order, decode_order, encode_order
from orchestrator.testing import check_engine

PLAN = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 4}), domain="number")
ENGINE = PluginSpec("counting-service")
STRATEGIES = {
    "votes": PluginSpec("consistency", {"n": 4}),
    "metrics and rules": PluginSpec("deepconf", {"n": 6, "n_init": 2, "window_tokens": 2}),
    "continuations": PluginSpec("dynasor", {"n": 1, "interval": 3}),
}


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("sharing")
    with served(PLAN, str(data), answers=ANSWERS) as one:
        yield one


def leadline_run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(leadline, [str(a) for a in arguments])


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "answer": "5"} for i in range(6)]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def journal(directory: Path) -> list[Any]:
    """Return the traces of a job without what is measured by a clock."""
    with sqlite3.connect(directory / "journal.db") as db:
        rows = db.execute("SELECT problem, ordinal, body FROM events WHERE ordinal IS NOT NULL")
        found = {(problem, ordinal): json.loads(body) for problem, ordinal, body in rows}
    db.close()
    for trace in found.values():
        trace.get("usage", {}).pop("seconds", None)
    return sorted(found.items())


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_run_has_the_journal_and_the_results_that_it_has_without_a_server(
    sharing: Served, tmp_path: Path, problems: Path, strategy: PluginSpec
) -> None:
    plan = tmp_path / "plan.toml"
    own = Plan(models=MODELS, strategy=strategy, domain="number")
    engine = PluginSpec("fake", {"answers": list(ANSWERS)})
    plan.write_text(plan_toml(own, Execution(engine), problems=str(problems)))
    n_before = len(sharing.counts.started)
    alone = leadline_run("run", plan, "--out", tmp_path / "alone", "--quiet")
    assert len(sharing.counts.started) == n_before
    hot = leadline_run(
        "run", plan, "--out", tmp_path / "hot", "--quiet", "--server", sharing.address
    )
    assert (alone.exit_code, hot.exit_code) == (0, 0), hot.output
    assert len(sharing.counts.started) > n_before
    assert journal(tmp_path / "hot") == journal(tmp_path / "alone")
    rows = [
        [json.loads(line) | {"seconds": 0, "usage": 0} for line in path.read_text().splitlines()]
        for path in (tmp_path / "hot/results.jsonl", tmp_path / "alone/results.jsonl")
    ]
    assert rows[0] == rows[1]


def test_solve_takes_the_plan_of_the_server_where_none_is_named(sharing: Served) -> None:
    solved = leadline_run("solve", "What is 2 + 3?", "--json", "--server", sharing.root)
    assert solved.exit_code == 0, solved.output
    result = json.loads(solved.stdout)["result"]
    assert (result["n_planned"], result["status"]) == (4, "answered")
    flags = ("--strategy", "adaptive", "--strategy.n", "3", "--server", sharing.root)
    other = leadline_run("solve", "?", "--json", *flags)
    assert json.loads(other.stdout)["result"]["n_planned"] == 3


def test_what_cannot_be_used_is_refused_by_name(
    sharing: Served, tmp_path: Path, problems: Path
) -> None:
    def refusal(*arguments: str, url: str = sharing.address) -> tuple[int, str]:
        result = leadline_run("solve", "?", "--server", url, *arguments)
        return result.exit_code, result.stderr

    code, message = refusal("--models.small.path", "tiny/other")
    assert code == 2
    assert "models.small.path is 'tiny/other'" in message
    assert "'tiny/small'" in message
    code, message = refusal("--execution.engine", "fake")
    assert code == 2
    assert "--execution.engine starts an engine" in message
    code, message = refusal(url="http://127.0.0.1:9/v1")  # the port of "discard": nobody answers
    assert code == 1
    assert "no server answers at http://127.0.0.1:9" in message
    assert refusal(url="localhost")[0] == 2
    pilot = leadline_run(
        *("run", "--problems", problems, "--out", tmp_path / "out", "--server", sharing.address),
        *("--dry-run", "--pilot", "10"),
    )
    assert pilot.exit_code == 2
    assert "--pilot starts engines" in pilot.stderr


def test_a_key_needs_the_right_to_use_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan's budget does not hold for what a command explores on its own side."""
    keys = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("may", "not")}
    keys.write_text(
        f"[may]\nsha256 = '{digests['may']}'\nengines = true\ntokens_per_day = 1\n"
        f"[not]\nsha256 = '{digests['not']}'\n"
    )
    with served(PLAN, str(tmp_path), keys=keys, answers=ANSWERS) as service:

        def solve(key: str, *more: str) -> Result:
            monkeypatch.setenv(KEY_VARIABLE, key)
            return leadline_run("solve", "?", "--server", service.address, *more)

        assert solve("may", "--strategy.n", "1").exit_code == 0
        refused = solve("not")
        assert refused.exit_code == 1
        assert "engines = true" in refused.stderr
        wrong = solve("wrong")
        assert wrong.exit_code == 1
        assert f"set {KEY_VARIABLE}" in wrong.stderr
        # its tokens of today are spent: nobody serves it before tomorrow
        spent = solve("may", "--supervision.patience_seconds", "0")
        assert spent.exit_code == 1
        assert "tokens a day" in spent.stderr


@pytest.mark.slow
async def test_it_is_an_engine_by_the_contract(tmp_path: Path) -> None:
    with served(PLAN, str(tmp_path), n_tokens=400, seconds_per_token=0.0005) as service:
        server = await asyncio.to_thread(connect, service.address)
        engines = RemoteEngines(server, ENGINE, is_batch=True)
        async with engines.open(MODELS) as engine:
            await check_engine(engine, engines.capabilities(), model="small", wait_seconds=SECONDS)


async def test_requests_of_one_identity_do_not_meet_and_leave_with_their_clients(
    tmp_path: Path,
) -> None:
    """Two solves always have the same ids; an abort reaches its own request alone."""
    with served(PLAN, str(tmp_path), window=1, seconds_per_token=60.0) as service:
        server = await asyncio.to_thread(connect, service.address)
        request = Request(prompt="?", problem_id="question", ordinal=0, model="small")
        batch = RemoteEngines(server, ENGINE, is_batch=True)
        people = RemoteEngines(server, ENGINE, is_batch=False)
        async with people.open(MODELS) as a, people.open(MODELS) as b, batch.open(MODELS) as c:
            tasks = [asyncio.create_task(one.generate(request)) for one in (a, b)]
            await asyncio.to_thread(service.counts.wait_for, lambda c: c.n_running == 2)
            assert len({one.identity for one in service.counts.started}) == 2
            a.abort(request)
            assert (await tasks[0]).finish is Finish.CANCELLED
            assert not tasks[1].done()
            # the first of a batch is always served; the second waits, as people fill the window
            first = asyncio.create_task(c.generate(Request("?", problem_id="row", ordinal=0)))
            await asyncio.to_thread(service.counts.wait_for, lambda c: len(c.started) == 3)
            second = asyncio.create_task(c.generate(Request("?", problem_id="row", ordinal=1)))
            await asyncio.sleep(0.05)
            c.abort(Request("?", problem_id="row", ordinal=1))
            assert (await second).finish is Finish.CANCELLED
            assert len(service.counts.started) == 3
            for task in (tasks[1], first):
                task.cancel()
            await asyncio.to_thread(service.counts.wait_for, lambda c: c.n_running == 0)


@given(
    st.lists(
        st.sampled_from(
            [WordLimit(("a", "b"), 2), ConfidenceFloor(0.5, 16), Delimiter("\n\n", 3)],
        ),
        max_size=3,
    ),
    st.sampled_from(
        ["text", (Message("user", "é", (Media("image_url", '{"url": "data:,"}', 1),)),)]
    ),
    st.integers(0, 2**63 - 1),
)
def test_a_request_arrives_as_it_was_sent(rules: Any, prompt: Any, seed: int) -> None:
    request = Request(
        prompt,
        parent=3,
        suffix="so",
        depth=4,
        checkpoint=7,
        sampling=Sampling(stop=("x",), extra={"logit_bias": {"5": -1.5}, "tools": [{"a": None}]}),
        rules=tuple(rules),
        metrics=("mean_logprob",),
        purpose=Purpose.PROBE,
        subjects=(1, 2),
        problem_id="é",
        ordinal=5,
        seed=seed,
        prefix_ids=(1, 2, 70_000),
    )
    order = Order("id", "digest", True, request)
    assert decode_order(encode_order(order)) == order


def test_what_is_no_order_is_refused(sharing: Served) -> None:
    good = encode_order(Order("id", "other", True, Request("?", problem_id="p", ordinal=0)))
    for body in (b"", b"\x81", b"{}", good[:-3], b"\x91" * 100_000):
        response = httpx.post(f"{sharing.root}{GENERATE}", content=body, timeout=SECONDS)
        assert response.status_code == 400
    # a server that was started again with another plan
    changed = httpx.post(f"{sharing.root}{GENERATE}", content=good, timeout=SECONDS)
    assert changed.status_code == 409
    described = httpx.get(f"{sharing.root}{PATH}", timeout=SECONDS).json()
    picture = Message("user", "?", (Media("image_url", '{"url": "http://169.254.169.254/"}'),))
    away = Request((picture,), problem_id="p", ordinal=0)
    order = encode_order(Order("id", described["digest"], False, away))
    trace = httpx.post(f"{sharing.root}{GENERATE}", content=order, timeout=SECONDS)
    assert b"fetches no media" in trace.content
