"""Kill -9 of a server at random moments of a batch: no row is lost, repeated or mispaired.

A child process is forked for each server and killed once its engine has served a random number of
requests; the next one continues with the same directory. LEADLINE_KILLS sets how many are killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import openai
import pytest
from counting_service import MESSAGES, SECONDS, served

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, PluginSpec, Request, Trace
from orchestrator.engines.fake.engine import Fake, FakeEngine, problem_number
from orchestrator.plan.execution import Execution
from orchestrator.serve.server import ServerOptions, serve_until_signal

N_KILLS = int(os.environ.get("LEADLINE_KILLS", "20"))
N_ROWS, N_SHARED_ROWS = 1000, 300
_PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import test_killed  # its engines
from orchestrator.cli.main import main
main()
"""
LEADLINE = [sys.executable, "-c", _PROGRAM.format(folder=str(Path(__file__).parent))]
_NO_PATH = "log:"  # a file that an option names is part of the engine, and this one changes
PLAN = Plan(strategy=PluginSpec("consistency", {"n": 3}), domain="number")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@orchestrator.engine("logging-service")
@dataclass(frozen=True, slots=True)
class Logging:
    """The fake engine, which also records the requests that it has served."""

    log: str = ""
    loads_models: bool = False

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[LoggingEngine]:
        yield LoggingEngine(Path(self.log.removeprefix(_NO_PATH)))


class LoggingEngine(FakeEngine):
    def __init__(self, log: Path) -> None:
        super().__init__(Fake(answers=("{hash}",), seconds_per_token=0.0004, spread_tokens=20))
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def generate(self, request: Request) -> Trace:
        os.write(self._log, f"{request.problem_id} {request.ordinal}\n".encode())
        return await super().generate(request)


class Child:
    """A server in a process of its own, which commands find if its engine loads models."""

    def __init__(self, data: Path, log: Path, port: int = 0, loads: bool = False) -> None:
        readable, writable = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                _serve(data, log, writable, port, loads)
                code = 0
            finally:
                os._exit(code)
        os.close(writable)
        with os.fdopen(readable) as pipe:
            self.address = pipe.readline().strip()
        assert self.address, "the server did not start"
        self.client = openai.OpenAI(base_url=self.address, api_key="none", timeout=SECONDS)

    def end(self, number: int) -> int:
        """Send a signal and return how the process ended."""
        self.client.close()
        os.kill(self.pid, number)
        return os.waitpid(self.pid, 0)[1]


def _serve(data: Path, log: Path, pipe: int, port: int, loads: bool) -> None:
    spec = PluginSpec("logging-service", {"log": f"{_NO_PATH}{log}", "loads_models": loads})
    execution = Execution(spec, window=16)
    options = ServerOptions(port=port, data=data, drain_seconds=0.0)

    def on_start(address: str) -> None:
        os.write(pipe, f"{address}\n".encode())
        os.close(pipe)

    asyncio.run(serve_until_signal(PLAN, execution, options, on_start))


def test_batches_survive_kills_at_any_moment(tmp_path: Path) -> None:
    """Of 1,000 rows each has one line of output, with the number that belongs to it.

    Between two servers, what the journal had is not generated again.
    """
    rng, log, data = random.Random(11), tmp_path / "log", tmp_path / "data"
    server = Child(data, log)
    try:
        batch = _created(server.client)
        for _ in range(N_KILLS):
            wanted = len(_served(log)) + rng.randrange(1, 3 * N_ROWS // N_KILLS)
            while len(_served(log)) < wanted and not _is_over(server.client, batch):
                pass
            server.end(signal.SIGKILL)
            kept, n_served = _journalled(data, batch), len(_served(log))
            server = Child(data, log)
            again = set(_served(log)[n_served:]) & kept
            assert not again, f"generated again although journalled: {again}"
        while not _is_over(server.client, batch):
            pass
        _check_output(server.client, batch)
        assert set(_served(log)) == {(f"r{i}", k) for i in range(N_ROWS) for k in range(3)}
    finally:
        status = server.end(signal.SIGTERM)
    assert status == 0


def _check_output(client: openai.OpenAI, batch: str) -> None:
    done = client.batches.retrieve(batch)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (N_ROWS, 0)
    assert done.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(done.output_file_id).iter_lines()]
    found = {x["custom_id"]: x["response"]["body"]["leadline"]["answer"] for x in lines}
    assert len(lines) == N_ROWS
    assert found == {f"r{i}": problem_number(f"r{i}") for i in range(N_ROWS)}


@orchestrator.engine("signal-handling")
@dataclass(frozen=True, slots=True)
class SignalHandling:
    """The fake engine, which handles SIGTERM itself once it is open, as Ray's does."""

    loads_models: ClassVar[bool] = False

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FakeEngine]:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        yield FakeEngine(Fake(seconds_per_token=0.1))


def test_sigterm_ends_the_command_once_its_requests_are_answered(tmp_path: Path) -> None:
    """The program of the command line answers what it has, and leaves with status 0."""
    command = [*LEADLINE, "serve", "--port", "0"]
    command.append(str(tmp_path / "plan.toml"))
    (tmp_path / "plan.toml").write_text(
        "[strategy]\nname = 'consistency'\nn = 4\n[execution.engine]\nname = 'signal-handling'\n"
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(x for x in process.stderr if "serving" in x).split()[-1]
        body = {"model": "smollm2", "messages": MESSAGES, "stream": True}
        with httpx.stream("POST", f"{address}/chat/completions", json=body, timeout=SECONDS) as r:
            events = r.iter_lines()
            assert "chat.completion.chunk" in next(events)
            process.send_signal(signal.SIGTERM)
            rest = list(events)
        assert "data: [DONE]" in rest
        assert '"n_attempts":4' in "".join(rest)
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("is_found", [False, True])
def test_a_run_on_engines_of_a_server_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_found: bool
) -> None:
    """After kill -9 of the server the run waits for the next one, and repeats nothing it has.

    Also where the run has found it: at the same address the next one has the same socket.
    """
    log, port = tmp_path / "log", 0
    monkeypatch.setenv("LEADLINE_SERVER", "")
    server, run = Child(tmp_path / "data", log, loads=is_found), None
    try:
        port = int(server.address.rpartition(":")[2].partition("/")[0])
        spec = {"": "logging-service", ".log": f"{_NO_PATH}{log}", ".loads_models": "true"}
        found = [x for k, v in spec.items() for x in (f"--execution.engine{k}", v)]
        run = _run_on(tmp_path, *(found if is_found else ("--server", server.address)))
        for n in range(1, 4):
            while len(_served(log)) < n * N_SHARED_ROWS // 2:
                assert run.poll() is None
            server.end(signal.SIGKILL)
            kept, n_served = _traces(tmp_path / "out"), len(_served(log))
            server = Child(tmp_path / "data", log, port, is_found)
            again = set(_served(log)[n_served:]) & kept
            assert not again, f"generated again although journalled: {again}"
        _, errors = run.communicate(timeout=SECONDS)
        assert run.returncode == 0
        assert ("using the engines of the server" in errors) is is_found
        assert _answers(tmp_path) == {
            f"r{i}": problem_number(f"r{i}") for i in range(N_SHARED_ROWS)
        }
    finally:
        if run is not None:
            run.kill()
            run.communicate()
        server.end(signal.SIGTERM)


def test_a_run_whose_server_is_gone_ends_and_is_resumed_on_another(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Child(tmp_path / "data", log)
    run = _run_on(tmp_path, "--server", server.address, "--supervision.patience_seconds", "0")
    try:
        while len(_served(log)) < N_SHARED_ROWS:
            assert run.poll() is None
    finally:
        server.end(signal.SIGKILL)
        _, errors = run.communicate(timeout=SECONDS)
    assert run.returncode == 1
    assert "the connection was lost" in errors
    assert f"resume {tmp_path / 'out'}" in errors
    server = Child(tmp_path / "data", log)
    try:
        command = [*LEADLINE, "resume", str(tmp_path / "out"), "--server", server.address]
        assert subprocess.run(command).returncode == 0
    finally:
        server.end(signal.SIGTERM)
    assert _answers(tmp_path) == {f"r{i}": problem_number(f"r{i}") for i in range(N_SHARED_ROWS)}


def test_a_killed_command_leaves_the_engine_idle(tmp_path: Path) -> None:
    plan = Plan(strategy=PluginSpec("consistency", {"n": 8}))
    with served(plan, str(tmp_path), hang_rate=1.0, drain_seconds=0.0) as service:
        command = [*LEADLINE, "solve", "How many?", "--server", service.address]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            service.counts.wait_for(lambda c: c.n_running == 8)
            process.kill()
        service.counts.wait_for(lambda c: c.n_running == 0)


def _run_on(folder: Path, *flags: str) -> subprocess.Popen[str]:
    rows = ({"id": f"r{i}", "prompt": "How many?"} for i in range(N_SHARED_ROWS))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [*LEADLINE, "run", "--problems", str(folder / "rows.jsonl")]
    command += ["--out", str(folder / "out"), "--strategy.n", "3", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _answers(folder: Path) -> dict[str, str]:
    lines = (folder / "out" / "results.jsonl").read_text().splitlines()
    return {row["id"]: row["answer"] for row in map(json.loads, lines)}


def _created(client: openai.OpenAI) -> str:
    rows = "".join(
        json.dumps(
            {
                "custom_id": f"r{i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "smollm2", "messages": MESSAGES},
            }
        )
        + "\n"
        for i in range(N_ROWS)
    )
    file = client.files.create(file=("rows.jsonl", rows.encode()), purpose="batch")
    window: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return client.batches.create(input_file_id=file.id, **window).id


def _is_over(client: openai.OpenAI, batch: str) -> bool:
    return client.batches.retrieve(batch).status in ("completed", "failed", "cancelled")


def _served(log: Path) -> list[tuple[str, int]]:
    # the last line may still be without its end
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [(problem, int(ordinal)) for problem, ordinal in map(str.split, lines)]


def _journalled(data: Path, batch: str) -> set[tuple[str, int]]:
    return _traces(data / "batches" / batch)


def _traces(directory: Path) -> set[tuple[str, int]]:
    path = directory / "journal.db"
    if not path.exists():
        return set()
    db = sqlite3.connect(path)
    try:
        query = "SELECT problem, ordinal FROM events WHERE ordinal IS NOT NULL"
        return set(db.execute(query).fetchall())
    except sqlite3.OperationalError:  # killed before the tables were created
        return set()
    finally:
        db.close()
