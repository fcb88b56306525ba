"""Jobs against a real server that refuses, drops and hangs requests in turn, and then mends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Ran

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.protocols import Engine
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.values import (
    Capability,
    Finish,
    PluginSpec,
    Problem,
    Request,
    Result,
    Status,
    Trace,
)
from orchestrator.engines.reply import trace_for
from orchestrator.engines.supervised import Clock
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Journal
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, Supervision
from orchestrator.runtime.api import run_job
from orchestrator.runtime.progress import Progress

WINDOW = 8
QUOTA = {"message": "You exceeded your current quota", "code": "insufficient_quota"}


class Server(ThreadingHTTPServer):
    """Answers "Question N?" with N; each of `troubles` is what befalls one request instead."""

    daemon_threads = True

    def __init__(self, troubles: list[str], n_served_before: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.troubles = ["ok"] * n_served_before + troubles
        self.always = "ok"  # when the troubles are over
        self.met: list[str] = []
        self.mended = threading.Event()  # ends the silence, with the next request that is answered
        self.lock = threading.Lock()
        self.full = threading.Barrier(WINDOW)  # where requests wait until they fill the window

    def handle_error(self, *_: object) -> None:
        """Print nothing: a client that ends closes its connections in the middle of a request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def trouble(self) -> str:
        with self.lock:
            self.met.append(self.troubles.pop(0) if self.troubles else self.always)
            (self.mended.clear if self.met[-1] == "silence" else self.mended.set)()
            return self.met[-1]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        trouble = self.server.trouble()
        if trouble == "full":
            with contextlib.suppress(threading.BrokenBarrierError):
                self.server.full.wait(60)
        if trouble in ("ok", "full"):
            self._stream(body, whole=True)
        elif trouble == "echo":
            self._reply(503, {"error": {"message": f"not for {self.headers['x-token']}"}})
        elif trouble == "quota":
            self._reply(429, {"error": QUOTA})
        elif trouble.isdigit():
            self._reply(int(trouble), {"error": {"message": "not now"}})
        elif trouble == "cut":
            self._stream(body, whole=False)
        else:
            if trouble == "silence":
                self.server.mended.wait(60)
            self._reset()

    def _reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: Mapping[str, object], whole: bool) -> None:
        [message] = body["messages"]  # type: ignore[misc]
        number = re.findall(r"\d+", message["content"])[0]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        delta = {"content": f"The answer is {number}."}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if whole else None}
        usage = {"prompt_tokens": 3, "completion_tokens": 5}
        self.wfile.write(f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n".encode())
        if whole:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _reset(self) -> None:
        self.wfile.flush()
        # lingering for 0 seconds: the connection is reset, not closed
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = open("/dev/null", "wb")  # noqa: SIM115 - the handler flushes it at its end


@contextlib.contextmanager
def serving(troubles: list[str], n_served_before: int = 0) -> Iterator[Server]:
    server = Server(troubles, n_served_before)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.mended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Jumping:
    """A clock on which every pause is over at once."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, end)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep, lambda: 0.5)


def questions(n: int) -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", "number") for i in range(n)]


PLAN = Plan(models={"main": Model("tiny")}, strategy=PluginSpec("consistency", {"n": 2}))


async def job_on(
    server: Server, directory: Path, n: int, supervision: Supervision | None = None
) -> tuple[list[Result], Progress]:
    execution = Execution(
        PluginSpec("openai", {"base_url": server.url}),
        window=WINDOW,
        supervision=supervision or Supervision(),
    )
    watched: list[Progress] = []
    with open_job(directory, PLAN, questions(n)) as job:
        async for _ in run_job(job, PLAN, execution, watched.append, clock=Jumping().clock()):
            pass
        return job.results(), watched[0]


async def test_no_problem_is_lost_in_an_outage_of_every_kind(tmp_path: Path) -> None:
    """429, 503, resets, cut streams and silence in turn; afterwards every request is served."""
    troubles = ["429"] * 9 + ["503"] * 9 + ["reset"] * 9 + ["cut"] * 9 + ["silence"] * 3
    troubles += ["429", "ok", "503", "ok", "reset", "ok", "cut", "ok"]
    with serving(troubles, n_served_before=11) as server:
        results, progress = await job_on(server, tmp_path, 40)
    assert [(r.problem_id, r.status) for r in results] == [
        (f"p{i}", Status.ANSWERED) for i in range(40)
    ]
    assert [r.answer.text for r in results if r.answer] == [str(i) for i in range(40)]
    assert all(r.clusters[0].count == 2 and not r.n_failed for r in results)
    # each of the 80 requests is served once, and only refused ones were sent again
    met = Counter(server.met)
    assert met.pop("ok") == 80
    assert met == Counter(t for t in troubles if t != "ok")
    outages = progress.outages
    assert outages.n_retries == met.total()
    assert outages.n_pauses >= 1
    assert outages.pause is None
    assert outages.lost_tokens == 5 * met["cut"]


async def test_after_an_outage_as_many_requests_are_in_flight_as_before(tmp_path: Path) -> None:
    """Each "full" request is answered only once the whole window is at the server."""
    outage = ["503"] * 20 + ["silence"] * 2 + ["429"] * 9
    with serving(["full"] * 2 * WINDOW + outage + ["ok"] * WINDOW) as server:
        server.always = "full"
        results, progress = await job_on(server, tmp_path, 4 * WINDOW)
    assert progress.outages.n_pauses >= 1
    assert not server.full.broken
    assert Counter(server.met)["full"] == (2 * 4 - 1) * WINDOW
    assert {r.status for r in results} == {Status.ANSWERED}


async def test_a_pause_does_not_count_in_a_budget_of_time(tmp_path: Path) -> None:
    """The budget is for work: an outage of an hour must not end every problem that was open.

    The budget's timer fires at once and again, and the clock moves in the pauses alone.
    """
    plan = replace(PLAN, budget=Budget(seconds=0.001))
    with serving(["quota"] * 6, n_served_before=3) as server:
        execution = Execution(PluginSpec("openai", {"base_url": server.url}), window=1)
        watched: list[Progress] = []
        clock = Jumping()
        with open_job(tmp_path, plan, questions(6)) as job:
            async for _ in run_job(job, plan, execution, watched.append, clock=clock.clock()):
                pass
            results = job.results()
    assert watched[0].outages.total_seconds() == clock.now > 10
    assert [r.stopped_by for r in results] == [""] * 6
    assert [r.seconds for r in results] == [0.0] * 6


def cli(*arguments: str) -> Ran:
    return CliRunner().invoke(leadline, list(arguments))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = ({"id": p.id, "prompt": p.prompt, "answer": p.id[1:]} for p in questions(30))
    Path("p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def command(server: Server) -> list[str]:
    options = {
        "problems": "p.jsonl",
        "domain": "number",
        "model": "tiny",
        "execution.engine": "openai",
        "execution.engine.base_url": server.url,
        "execution.window": "4",
        "strategy.n": "1",
        "supervision.patience_seconds": "0",
    }
    return ["run", *(word for name, value in options.items() for word in (f"--{name}", value))]


def rows() -> list[dict[str, object]]:
    return [json.loads(line) for line in Path("runs/p/results.jsonl").read_text().splitlines()]


def test_an_exhausted_quota_ends_the_run_with_the_reason_and_it_resumes(folder: Path) -> None:
    """Nothing fails; once the quota is raised, only what is missing is requested."""
    with serving([], n_served_before=12) as server:
        server.always = "quota"
        ended = cli(*command(server))
        assert ended.exit_code == 1, ended.output
        said = " ".join(ended.stderr.split())
        assert "HTTP 429: You exceeded your current quota; the quota is used up" in said
        assert "finished traces are kept" in said
        assert "continue with: leadline resume runs/p" in said
        assert {row["status"] for row in rows()} <= {"answered"}
        server.always = "ok"
        resumed = cli("resume", "runs/p")
        assert resumed.exit_code == 0, resumed.output
        assert "accuracy" in resumed.stdout
        assert "100.0" in resumed.stdout
        # those in flight at the end may have been served for nothing
        assert 30 <= Counter(server.met)["ok"] < 30 + 4
    assert [row["answer"] for row in rows()] == [str(i) for i in range(30)]


def test_a_server_that_never_mends_ends_the_run_and_what_failed_is_tried_again(
    folder: Path,
) -> None:
    """The same command takes up the few problems that failed before it was clear."""
    with serving([], n_served_before=12) as server:
        server.always = "503"
        ended = cli(*command(server))
        assert ended.exit_code == 1, ended.output
        assert "HTTP 503: not now; no request was served" in " ".join(ended.stderr.split())
        failed = [row for row in rows() if row["status"] == "failed"]
        assert len(failed) <= 5 + 3  # refused in a row before it is clear, and in flight then
        server.always = "ok"
        again = cli(*command(server))
        assert again.exit_code == 0, again.output
        if failed:
            assert f"{len(failed)} that failed are tried again" in again.stderr
        # those in flight at the end may have been served for nothing
        assert 30 <= Counter(server.met)["ok"] < 30 + 4
    assert [row["answer"] for row in rows()] == [str(i) for i in range(30)]


SPREAD = """
problems = "p.jsonl"
domain = "number"
model = "tiny"

[strategy]
name = "consistency"
n = 1

[execution]
window = 4

[execution.engine]
name = "openai"
endpoints = [
    {{ base_url = "{one}", headers_env = {{ X-Token = "TOKEN_ONE" }}, max_in_flight = 2 }},
    {{ base_url = "{two}", headers = {{ X-Team = "a" }}, api_key_env = "KEY_TWO" }},
]
"""


def test_a_job_is_spread_over_endpoints_and_keeps_no_secret(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One endpoint refuses everything, and its refusals have the secret that it was sent."""
    token, key = "Basic c3dvcmRmaXNo", "swordfish-of-two"
    monkeypatch.setenv("TOKEN_ONE", token)
    monkeypatch.setenv("KEY_TWO", key)
    with serving([]) as one, serving([]) as two:
        one.always = "echo"
        Path("plan.toml").write_text(SPREAD.format(one=one.url, two=two.url))
        ran = cli("run", "plan.toml", "--out", "runs/p")
        assert ran.exit_code == 0, ran.output
        assert (Counter(two.met), {*one.met}) == ({"ok": 30}, {"echo"})
        assert len(one.met) < 30
        assert f"not for {'*' * len(token)}" in " ".join(ran.output.split())
    kept, given = (Execution.load(p).engine for p in ("runs/p/plan.toml", "plan.toml"))
    assert kept == given
    exported = cli("export", "runs/p", "--to", "jsonl")
    assert exported.exit_code == 0, exported.output
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    outputs = [one.output.encode() for one in (ran, exported)]
    for secret in (token, token.split()[1], key):
        assert not any(secret.encode() in data for data in (*written, *outputs))


FAKE = ("--problems", "p.jsonl", "--domain", "number", "--strategy.n", "2")
FAKE += ("--execution.engine", "fake", "--execution.engine.failure_rate")


def test_a_job_with_too_many_failures_ends_early_with_exit_code_3(folder: Path) -> None:
    """Ten of thirty are more than a tenth, and enough to say so."""
    ended = cli("run", *FAKE, "1", "--execution.open_problems", "2")
    assert ended.exit_code == 3, ended.output
    assert re.search(r"1[01] of 30 problems failed.*supervision.max_failed = 0.1", ended.stderr)
    assert "leadline resume runs/p" in ended.stderr
    [listing] = re.findall(r"^look closer: leadline (.*)$", ended.stderr, re.MULTILINE)
    assert re.search(r"30 problems: 1[01] failed", cli(*listing.split()).stdout)
    assert 10 <= len(rows()) < 30
    allowed = cli("resume", "runs/p", "--supervision.max_failed", "1")
    assert (allowed.exit_code, len(rows())) == (1, 30), allowed.output
    assert cli("run", *FAKE, "0", "--no-retry-failed").exit_code == 3
    assert {row["status"] for row in rows()} == {"failed"}
    mended = cli("run", *FAKE, "0")
    assert mended.exit_code == 0, mended.output
    assert {row["status"] for row in rows()} == {"answered"}


def test_failed_problems_are_not_scored_as_wrong_in_silence(folder: Path) -> None:
    """With 7 of 30 failed, the table has the accuracy of the other 23 too."""
    done = cli("run", *FAKE, "0.5", "--supervision.max_failed", "0.9")
    n_failed = sum(row["status"] == "failed" for row in rows())
    assert 0 < n_failed < 30
    said = " ".join(done.stdout.split())
    assert f"{n_failed} problems that failed count as wrong; of the other {30 - n_failed}:" in said
    assert done.exit_code == 0
    evaluated = " ".join(cli("eval", "runs/p").stdout.split())
    assert f"{n_failed} problems that failed count as wrong" in evaluated


@registry.strategy("test-fragile")
@dataclass(frozen=True, slots=True)
class Fragile:
    """Fails with any of its traces, after it has replaced it in vain."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * 4)
        for _ in range(4):
            if (yield from next_trace()).finish is Finish.FAILED:
                yield from submit([Request(max_new_tokens=7)])
                yield from next_trace()
                raise RuntimeError("one of them failed")


@dataclass
class Recorder:
    """An engine, and its factory, that fails one ordinal and records what it is sent."""

    fails: int
    sent: list[int]

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    def open(self, models: Mapping[str, Model]) -> AbstractAsyncContextManager[Engine]:
        return nullcontext(self)

    async def generate(self, request: Request) -> Trace:
        self.sent.append(request.ordinal)
        if request.ordinal == self.fails:
            return trace_for(request, Finish.FAILED, error="unlucky")
        return trace_for(request, Finish.STOP, text="The answer is 1.")

    def abort(self, request: Request) -> None:
        """Nothing here runs for long."""


async def run_fragile(directory: Path, engine: Recorder, budget: Budget) -> Result:
    plan = replace(PLAN, strategy=PluginSpec("test-fragile"), budget=budget)
    with open_job(directory, plan, questions(1)) as job:
        async for _ in run_job(job, plan, Execution(PluginSpec("fake")), factory=engine):
            pass
        [result] = job.results()
    return result


async def test_another_try_repeats_only_what_was_unlucky(tmp_path: Path) -> None:
    """Completed traces have been paid for; what the strategy did about the failed one is undone."""
    first = await run_fragile(tmp_path, Recorder(2, []), Budget())
    assert first.status is Status.FAILED
    again = Recorder(-1, [])
    second = await run_fragile(tmp_path, again, Budget())
    assert (second.status, second.n_traces, second.n_failed) == (Status.ANSWERED, 4, 0)
    assert again.sent == [2]
    with Journal(tmp_path / "journal.db") as journal:
        assert sorted(t.ordinal for t in journal.traces("p0")) == [0, 1, 2, 3]
        assert journal.failed() == set()


async def test_a_problem_that_fails_by_its_strategy_costs_nothing_again(tmp_path: Path) -> None:
    """No trace failed, so none is repeated; the result is what it was."""
    assert (await run_fragile(tmp_path, Recorder(4, []), Budget())).status is Status.ANSWERED
    plan = replace(PLAN, strategy=PluginSpec("test-raises-late"))
    engine = Recorder(-1, [])
    for n_sent in (2, 2):
        with open_job(tmp_path / "late", plan, questions(1)) as job:
            async for _ in run_job(job, plan, Execution(PluginSpec("fake")), factory=engine):
                pass
            assert [r.status for r in job.results()] == [Status.FAILED]
        assert len(engine.sent) == n_sent


@registry.strategy("test-raises-late")
@dataclass(frozen=True, slots=True)
class RaisesLate:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * 2)
        yield from next_trace()
        yield from next_trace()
        raise RuntimeError("on purpose")


def test_failed_problems_are_tried_again_from_python(tmp_path: Path) -> None:
    allowing = Execution(supervision=Supervision(max_failed=1.0))

    def statuses(failure_rate: float, retry_failed: bool) -> set[str]:
        engine = PluginSpec("fake", {"failure_rate": failure_rate})
        execution = replace(allowing, engine=engine)
        results = orchestrator.run(
            questions(3), Plan(), execution, out=tmp_path, retry_failed=retry_failed
        )
        return {result.status.value for result in results}

    assert statuses(1.0, retry_failed=True) == {"failed"}
    assert statuses(0.0, retry_failed=False) == {"failed"}
    assert statuses(0.0, retry_failed=True) == {"answered"}


def test_too_many_failures_are_an_error_in_python() -> None:
    """Results that are missing must not look like results."""
    failing = Execution(PluginSpec("fake", {"failure_rate": 1.0}))
    with pytest.raises(orchestrator.TooManyFailed, match=r"of 40 problems failed.*on purpose"):
        orchestrator.run(questions(40), Plan(), failing)


@pytest.mark.parametrize(
    "strategy",
    [
        PluginSpec("consistency", {"n": 3}),
        PluginSpec("adaptive", {"n": 6}),
        PluginSpec("short-m@k", {"m": 1, "k": 3}),
        PluginSpec("revise", {}),
        PluginSpec("rsa", {}),
        PluginSpec("sounding", {"n": 4, "interval": 4, "patience": 1}),
    ],
    ids=lambda spec: spec.name,
)
def test_what_another_try_gives_is_what_a_fresh_job_gives(
    strategy: PluginSpec, tmp_path: Path
) -> None:
    """Also where traces of the first try are used again: 85 % of its requests fail.

    How many requests were in flight, and are cancelled, when a vote is decided depends on the
    moment, in two fresh jobs too.
    """
    plan = replace(PLAN, strategy=strategy)
    allowing = Execution(PluginSpec("fake"), supervision=Supervision(max_failed=1.0))

    def results(directory: Path, failure_rate: float) -> dict[str, Result]:
        engine = PluginSpec("fake", {"failure_rate": failure_rate})
        execution = replace(allowing, engine=engine)
        every = orchestrator.run(questions(20), plan, execution, out=directory)
        return {r.problem_id: replace(r, seconds=0.0, usage={}, n_cancelled=0) for r in every}

    first = results(tmp_path / "unlucky", 0.85)
    failed = {i for i, r in first.items() if r.status is Status.FAILED}
    assert failed
    second, fresh = results(tmp_path / "unlucky", 0.0), results(tmp_path / "fresh", 0.0)
    assert {i: second[i] for i in failed} == {i: fresh[i] for i in failed}
    assert {i: second[i] for i in second.keys() - failed} == {
        i: first[i] for i in first.keys() - failed
    }
