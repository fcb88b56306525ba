"""Serves the pages of a job or a sweep on a port until it is interrupted.

The one rule: whatever ends it, the process that keeps the index ends as well, and nothing is left
behind. Imported only where pages are served: its packages are an optional extra.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import msgspec
import uvicorn
from starlette.applications import Starlette

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.jobs.finished import recorded_plan
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import load_explorer
from orchestrator.jobs.source import read_source
from orchestrator.report.live.app import view_app
from orchestrator.report.live.query import Reader
from orchestrator.report.live.viewed import Viewed, ViewedJob
from orchestrator.report.page.studies import SURFACE, effort_folders

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOKEN_BYTES = 18
_END_SECONDS = 5.0  # that a server or a process is given to end by itself


def viewed_jobs(place: Path) -> list[Path]:
    """Return the directories of the jobs in a place: itself, or those of a sweep.

    PlanError when there is none, or a plugin of its plan is not installed.
    """
    is_sweep = (place / SURFACE).is_file() or not (place / "journal.db").is_file()
    folders = effort_folders(place) if is_sweep else [place]
    if not folders:
        raise PlanError(
            f"there is no job in {place}: neither it nor a folder in it has a journal.db"
            + ("; `leadline report` shows the output of a replay" if place.is_file() else "")
        )
    for folder in folders:
        read_source(folder)
        with Journal.for_reading(folder / "journal.db") as journal:
            load_explorer(recorded_plan(folder, journal))
    return folders


def serve_view(
    place: Path, problems: str, host: str, port: int, started: Callable[[str], None]
) -> None:
    """Serve the pages of a place until a signal ends it; `started` receives their address.

    Port 0 is any free one. PlanError when there is no job or the port cannot be used.
    """
    folders = viewed_jobs(place)
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    with ExitStack() as stack:
        listening = stack.enter_context(_listening(host, port))
        folder = Path(tempfile.mkdtemp(prefix="leadline-view-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        files = [(job.resolve(), folder / f"{i}.db") for i, job in enumerate(folders)]
        readers = [Reader(path) for _, path in files]
        for reader in readers:
            stack.callback(reader.close)
        sweep = None if folders == [place] else place.resolve()
        indexer = stack.enter_context(_indexer(files, problems, folder, sweep))
        while any(reader.fact("overview") is None for reader in readers):
            if fault := indexer():
                raise EngineError(fault)
            time.sleep(0.02)
        jobs = [ViewedJob(job, reader) for job, reader in zip(folders, readers, strict=True)]
        viewed = Viewed(place.resolve().name, jobs, fault=indexer)
        app = view_app(viewed, token, {host.lower(), *_LOOPBACK, socket.gethostname().lower()})
        server = uvicorn.Server(_config(app))
        viewed.is_ending = lambda: server.should_exit
        stack.enter_context(_terminable())
        name = f"[{host}]" if ":" in host else host
        started(f"http://{name}:{listening.getsockname()[1]}/?token={token}")
        server.run(sockets=[listening])


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=int(_END_SECONDS),
    )


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; PlanError when it cannot."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        option = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        raise PlanError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --{option}"
        ) from error


@contextmanager
def _indexer(
    files: Sequence[tuple[Path, Path]], problems: str, folder: Path, sweep: Path | None
) -> Iterator[Callable[[], str]]:
    """Keep the indexes up to date in a process; yield what tells why it ended, "" if it did not."""
    log = folder / "log"
    places = [(str(job), str(path)) for job, path in files]
    named = (places, problems, str(folder), None if sweep is None else str(sweep))
    arguments = msgspec.json.encode(named).decode()
    command = [sys.executable, "-m", "orchestrator.report.live.worker", arguments]
    # a session of its own: Ctrl-C of the terminal is not for it
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):

        def fault() -> str:
            if process.poll() is None:
                return ""
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            return f"the journal is no longer read: {last or f'exit code {process.returncode}'}"

        try:
            yield fault
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that it ends the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
