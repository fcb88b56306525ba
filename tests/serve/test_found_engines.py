"""Commands without `--server` use the engines of a running server of the same user and plan.

Where one runs they say so in one line; where none does, or it is another one, they start their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from click.testing import CliRunner, Result
from counting_service import ANSWERS, SECONDS, Counting, CountingEngine, Served, request, served

import orchestrator
from orchestrator.cli.machine import doctor
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Finish, Media, Message, PluginSpec, Request
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import load_plan, plan_toml
from orchestrator.serve.routes.app import Limits
from orchestrator.serve.sharing import remote, sockets, wire
from orchestrator.serve.sharing.identity import engine_identity
from orchestrator.serve.sharing.remote import found_server
from orchestrator.serve.sharing.sockets import published_socket, running_sockets
from orchestrator.serve.sharing.wire import (
    GENERATE,
    Order,
    decode_trace,
    encode_order,
    engine_digest,
)

OPENED: list[str] = []  # the label of each engine that was opened


@orchestrator.engine("loading-service")
@dataclass(frozen=True, slots=True)
class Loading(Counting):
    """The engine that counts, as one that loads models: it also counts how often it is opened."""

    loads_models: ClassVar[bool] = True
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[CountingEngine]:
        OPENED.append(self.label)
        async with Counting(self.label, self.options).open(models) as engine:
            yield engine


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder and a cache of the test's own, where commands look for servers."""
    monkeypatch.delenv("LEADLINE_SERVER")
    monkeypatch.setattr(remote, "_SOCKET_SECONDS", SECONDS)  # the machine may be busy
    # pytest's own folder has too long a name for sockets
    with tempfile.TemporaryDirectory(prefix="found-") as name:
        (Path(name) / "run").mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{name}/run")
        monkeypatch.setenv("XDG_CACHE_HOME", f"{name}/cache")
        yield Path(name)


@dataclass(slots=True)
class Case:
    """A plan whose engine loads a model, as a file and as what a server is started with."""

    folder: Path
    plan: Plan
    options: dict[str, Any]

    @property
    def label(self) -> str:
        return f"counts of {self.folder}"  # no path: what is there would be part of the engine

    @property
    def n_opened(self) -> int:
        return OPENED.count(self.label)

    @property
    def execution(self) -> Execution:
        spec = PluginSpec("loading-service", {"label": self.label, "options": self.options})
        return Execution(spec)

    @property
    def identity(self) -> str:
        return engine_identity(self.plan, self.execution)

    def served(self, **options: Any) -> contextlib.AbstractContextManager[Served]:
        return served(self.plan, self.label, engine="loading-service", **self.options, **options)

    def command(self, verb: str, *arguments: object) -> Result:
        """Run a command with the plan."""
        file = self.folder / "plan.toml"
        file.write_text(plan_toml(self.plan, self.execution))
        where = ("--plan", file) if verb == "solve" else (file,)
        return CliRunner().invoke(leadline, [verb, *map(str, (*where, *arguments))])

    def solve(self, *arguments: object) -> Result:
        return self.command("solve", "What is 2 + 3?", *arguments)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    models = {"small": Model(str(model)), "large": Model("tiny/large")}
    plan = Plan(models=models, strategy=PluginSpec("consistency", {"n": 4}), domain="number")
    return Case(tmp_path, plan, {"answers": list(ANSWERS)})


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "answer": "5"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


USES = "using the engines of the server at "


def said(result: Result) -> list[str]:
    """Return what a command said of servers; the log of the server in this process is left out."""
    return [x for x in result.stderr.splitlines() if x.startswith(("note:", USES))]


def test_every_command_uses_the_engines_of_a_running_server(case: Case, problems: Path) -> None:
    """One engine is opened, and each command names the server; results are those without one."""
    run = ("run", "--problems", problems, "--out")
    with case.served() as service:
        solved = case.solve("--json")
        assert solved.exit_code == 0, solved.output
        assert json.loads(solved.stdout)["result"]["n_planned"] == 4
        assert f"{USES}{service.root};" in solved.stderr
        hot = case.command(*run, case.folder / "hot", "--limit", "3")
        assert hot.exit_code == 0, hot.output
        assert USES in hot.stderr
        resumed = CliRunner().invoke(leadline, ["resume", str(case.folder / "hot")])
        assert USES not in resumed.stderr, "nothing is left to run"
        kept = load_plan(case.folder / "hot" / "plan.toml")
        assert engine_identity(kept.plan, kept.execution) == case.identity, "else it finds none"
        hot = case.command(*run, case.folder / "hot")
        assert USES in hot.stderr
        assert case.n_opened == 1
        assert len(service.counts.started) == 4 + 6 * 4
    cold = case.command(*run, case.folder / "cold")
    assert (cold.exit_code, case.n_opened) == (0, 2), cold.output
    assert USES not in cold.stderr
    votes = [
        [
            (row["id"], row["answer"], row["votes"])
            for row in map(json.loads, path.read_text().splitlines())
        ]
        for path in (case.folder / "hot/results.jsonl", case.folder / "cold/results.jsonl")
    ]
    assert votes[0] == votes[1]


def test_quiet_says_nothing_and_none_starts_engines_of_its_own(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with case.served():
        quiet = case.solve("--quiet").stderr.splitlines()
        assert all(line.startswith("{") for line in quiet), "the server's own log alone"
        assert case.n_opened == 1
        own = case.solve("--server", "none")
        assert (own.exit_code, case.n_opened) == (0, 2)
        assert USES not in own.stderr
        monkeypatch.setenv("LEADLINE_SERVER", "none")
        assert case.solve().exit_code == 0
        assert case.n_opened == 3
        monkeypatch.setenv("LEADLINE_SERVER", "")
        assert USES in case.solve().stderr


def other_option(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.options["seconds_per_token"] = 1e-6


def other_revision(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = case.plan.models.values()
    case.plan = replace(case.plan, models={"small": replace(small, revision="2"), "large": large})


def other_default(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.plan = replace(case.plan, models=dict(reversed(case.plan.models.items())))


def other_weights(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    (case.folder / "model" / "model.safetensors").write_text("trained further")


def other_variables(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "other")


def other_installation(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", "/elsewhere")


def other_version(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "version", lambda name: "0.0.0")


DIFFERENCES: tuple[Callable[[Case, pytest.MonkeyPatch], None], ...] = (
    other_option,
    other_revision,
    other_default,
    other_weights,
    other_variables,
    other_installation,
    other_version,
)


@pytest.mark.parametrize("differ", DIFFERENCES, ids=lambda differ: differ.__name__)
def test_a_server_whose_engine_differs_is_not_used(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    differ: Callable[[Case, pytest.MonkeyPatch], None],
) -> None:
    """And nothing is said of it: it is no server of this plan."""
    with case.served() as service:
        assert USES in case.solve().stderr
        n_before = len(service.counts.started)
        differ(case, monkeypatch)
        own = case.solve()
        assert own.exit_code == 0, own.output
        assert said(own) == []
        assert case.n_opened == 2
        assert len(service.counts.started) == n_before + 4, "those of its own engine"


def test_a_relative_path_means_another_folder_elsewhere(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case.folder / "elsewhere" / "model").mkdir(parents=True)
    (case.folder / "elsewhere" / "model" / "config.json").write_text("{}")
    case.plan = replace(case.plan, models={"small": Model("./model")})
    monkeypatch.chdir(case.folder)
    with case.served():
        assert USES in case.solve().stderr
        monkeypatch.chdir("elsewhere")
        assert USES not in case.solve().stderr
        assert case.n_opened == 2


def test_another_strategy_and_sampling_use_the_same_engine(case: Case) -> None:
    """They are the command's own, as with --server."""
    with case.served():
        done = case.solve("--strategy", "adaptive", "--sampling.temperature", "0.3")
        assert (done.exit_code, case.n_opened) == (0, 1), done.output


def test_of_two_servers_of_a_plan_the_one_that_started_last_is_used(case: Case) -> None:
    with case.served() as first:
        os.utime(running_sockets()[0].path, ns=(0, 0))  # a clock may give both the same time
        with case.served() as second:
            assert len(running_sockets()) == 2
            assert second.root in case.solve().stderr
        assert first.root in case.solve().stderr
    assert running_sockets() == []
    assert USES not in case.solve().stderr


def test_a_socket_needs_no_key_and_has_a_client_of_its_own(case: Case) -> None:
    """The file system says who may: over the address the same server asks for one."""
    keys = case.folder / "keys.toml"
    keys.write_text(f"[may]\nsha256 = '{'0' * 64}'\nrequests_per_minute = 1\n")
    with case.served(keys=keys) as service:
        assert httpx.get(f"{service.address}/models", timeout=SECONDS).status_code == 401
        solved = case.solve("--quiet")
    log = [json.loads(line) for line in solved.stderr.splitlines()]
    assert {entry["client"] for entry in log} == {"socket"}
    assert [entry["path"] for entry in log].count(GENERATE) >= 3  # the last one may come later


def test_what_engines_of_the_command_would_take_is_taken(case: Case) -> None:
    """Limits of a service, which are for others, would change what a run of its own user answers:
    media are fetched, and neither the size of a request nor the number of open ones is limited.
    """
    picture = Media("image_url", '{"url": "http://127.0.0.1:9/"}')
    prompt = (Message("user", "?" * (9 << 20), (picture,)),)
    limits = Limits(max_waiting=1)
    with case.served(window=1, limits=limits):
        solved = case.solve("--quiet", "--strategy.n", "8")
        log = [json.loads(line) for line in solved.stderr.splitlines()]
        assert {entry["status"] for entry in log} == {200}, "of eight requests, two have room"
        [one] = running_sockets()
        sent = Request(prompt, problem_id="p", ordinal=0, model="small")
        order = Order("id", engine_digest(case.plan, case.execution), False, sent)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(one.path))) as client:
            reply = client.post(
                f"{one.address}{GENERATE}", content=encode_order(order), timeout=SECONDS
            )
        assert reply.status_code == 200, reply.text
        assert decode_trace(reply.content).finish is Finish.STOP


def test_an_engine_that_loads_nothing_is_not_shared(case: Case, home: Path) -> None:
    with served(case.plan, case.label):
        assert list(home.rglob("*.sock")) == []
    openai = Execution(PluginSpec("openai"))
    assert engine_identity(case.plan, openai) == ""
    assert engine_identity(case.plan, Execution(PluginSpec("vllm"))) != ""
    assert engine_identity(case.plan, Execution(PluginSpec("ray"))) != ""


# --- servers that are dead, hang, or end


NOWHERE = "http://127.0.0.1:9"


def left_behind(identity: str, home: Path) -> Path:
    """Return the socket of a server that was killed, so that it could not remove it."""
    with published_socket(identity, NOWHERE):
        [path] = home.rglob(f"*{identity}*.sock")
        path.rename(home / "kept")
    return (home / "kept").rename(path)


def test_the_socket_of_a_killed_server_is_removed(case: Case, home: Path) -> None:
    """By a command of its plan, or by the next server, of whatever plan."""
    path = left_behind(case.identity, home)
    own = case.solve()
    assert (own.exit_code, case.n_opened) == (0, 1)
    assert said(own) == []
    assert not path.exists()
    path = left_behind("0" * 16, home)
    with case.served():
        assert not path.exists()


def test_a_server_that_hangs_costs_a_moment(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket accepts the connection, and no answer comes."""
    monkeypatch.setattr(remote, "_SOCKET_SECONDS", 0.2)
    with published_socket(case.identity, NOWHERE):
        own = case.solve("--json")
    assert (own.exit_code, case.n_opened) == (0, 1), own.output
    json.loads(own.stdout)
    [note] = [line for line in own.stderr.splitlines() if "note" in line]
    assert note.startswith("note: the server at http://127.0.0.1:9 does not answer; engines of")


def test_a_server_without_room_for_a_connection_runs(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs, and as many wait as may. To look whether it runs must not wait, or remove it."""
    monkeypatch.setattr(sockets, "_BACKLOG", 0)
    with published_socket(case.identity, NOWHERE), contextlib.ExitStack() as stack:
        [one] = running_sockets()
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(one.path))
        assert running_sockets() == [one]


def test_what_is_no_service_is_not_used(case: Case) -> None:
    """Something else listens under the name, and says something else."""
    with published_socket(case.identity, NOWHERE) as place, contextlib.ExitStack() as stack:

        def answer() -> None:
            for _ in range(2):  # of them, one looks whether it runs
                with place.accept()[0] as client:
                    client.recv(4096)
                    with contextlib.suppress(OSError):
                        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        stack.callback(thread.join, SECONDS)
        own = case.solve()
    assert (own.exit_code, case.n_opened) == (0, 1), own.output
    assert "is not a service of `leadline serve`" in own.stderr


def test_a_server_that_shuts_down_is_not_used(case: Case) -> None:
    """It answers what it has, and a command would wait for the next one, which may never come."""
    case.options["hang_rate"] = 1.0
    notes: list[str] = []
    draining = case.served(drain_seconds=float(SECONDS))
    with draining as service, contextlib.closing(request(service)):
        service.counts.wait_for(lambda counts: counts.n_running == 4)
        assert found_server(case.plan, case.execution, notes.append) is not None
        service.stop()
        while httpx.get(f"{service.root}/ready", timeout=SECONDS).status_code == 200:
            pass
        assert found_server(case.plan, case.execution, notes.append) is None
    assert "shutting down" in notes[0]


# --- places


def test_a_folder_that_others_may_enter_is_not_trusted(case: Case, home: Path) -> None:
    """Its sockets may be anybody's: the server makes its own elsewhere, and commands find it."""
    folder = home / "run" / "leadline"
    folder.mkdir(mode=0o755)
    with case.served():
        assert list(folder.iterdir()) == []
        [one] = running_sockets()
        assert one.path.parent == home / "cache" / "leadline" / "sockets"
        assert one.path.parent.stat().st_mode & 0o777 == 0o700
        assert USES in case.solve().stderr
        one.path.rename(folder / one.path.name)
        assert running_sockets() == []
        assert USES not in case.solve().stderr


def test_another_users_socket_is_not_trusted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with case.served():
        assert len(running_sockets()) == 1
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert running_sockets() == []
        assert USES not in case.solve().stderr


def test_a_link_to_a_folder_is_not_trusted(case: Case, home: Path) -> None:
    (home / "mine").mkdir(mode=0o700)
    (home / "run" / "leadline").symlink_to(home / "mine")
    with case.served():
        assert list((home / "mine").iterdir()) == []


def no_runtime_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")


def relative_runtime_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")


def vanished_runtime_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "run").rmdir()


@pytest.mark.parametrize(
    "change", [no_runtime_folder, relative_runtime_folder, vanished_runtime_folder]
)
def test_without_a_runtime_folder_the_cache_has_the_sockets(
    case: Case,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    change(home, monkeypatch)
    with case.served():
        assert running_sockets()[0].path.parent == home / "cache" / "leadline" / "sockets"
        assert USES in case.solve().stderr


def test_a_server_in_the_cache_is_found_from_a_session_with_a_runtime_folder(
    case: Case, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was started by cron, say."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with case.served():
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
        assert USES in case.solve().stderr


def read_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be: that stops root too."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    (home / "cache").write_text("")


def no_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sockets, "cache_home", fail)


def long_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))


def no_sockets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = SimpleNamespace(gethostname=socket.gethostname)  # as the module is on Windows
    monkeypatch.setattr(sockets, "socket", without)


@pytest.mark.parametrize("change", [read_only, no_home, long_path, no_sockets])
def test_a_server_without_a_place_for_a_socket_serves_all_the_same(
    case: Case,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    """Its log has the reason, and commands start their own engines or are given the address."""
    change(home, monkeypatch)
    with case.served() as service:
        assert '"event":"no_socket","cause":"' in capfd.readouterr().err
        own = case.solve()
        assert (own.exit_code, case.n_opened) == (0, 2), own.output
        assert USES not in own.stderr
        assert case.solve("--server", service.address).exit_code == 0
        assert case.n_opened == 2


def test_without_httpx_a_note_says_how_a_server_is_used(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with case.served():
        monkeypatch.setitem(sys.modules, "httpx", None)
        own = case.solve()
    assert (own.exit_code, case.n_opened) == (0, 2), own.output
    assert 'pip install "leadline[http]"' in own.stderr


def test_doctor_names_the_servers_that_run(case: Case) -> None:
    assert "none runs" in doctor.servers().message
    with case.served() as service:
        assert service.root in doctor.servers().message
