"""A command of Leadline in a process of its own, forked with all modules imported.

The one rule: the process is the command as users run it: its arguments, streams and exit code.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

from orchestrator.cli.main import main
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Request, Trace
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.plan import registry
from processes import last_number  # noqa: F401 - registers the domain

HANG_SECONDS = 120.0  # on however busy a machine


@registry.engine("chaos-logging")
@dataclass(frozen=True, slots=True)
class Logging:
    """The fake engine of `cases`, which also records the requests that it is sent."""

    loads_models: ClassVar[bool] = False
    log: str = ""
    seconds_per_token: float = 0.002

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FakeEngine]:
        yield LoggingEngine(self, {name: model.task for name, model in models.items()})


class LoggingEngine(FakeEngine):
    def __init__(self, options: Logging, tasks: Mapping[str, str]) -> None:
        import cases

        super().__init__(cases.engine(options.seconds_per_token), tasks)
        self._log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def generate(self, request: Request) -> Trace:
        if request.ordinal >= 0:  # else a verifier's
            os.write(self._log, f"{request.problem_id} {request.ordinal}\n".encode())
        return await super().generate(request)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    output: str

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output


class Command:
    """A command that runs; its process leads a group."""

    def __init__(self, arguments: Sequence[str], output: Path, waits: bool = False) -> None:
        """Start it; with `waits` it is stopped before its first step, until it gets SIGCONT."""
        self._output = output
        self.pid = os.fork()
        if self.pid == 0:
            if waits:
                os.kill(os.getpid(), signal.SIGSTOP)
            _become(arguments, output)
        self._end = os.pidfd_open(self.pid)
        if waits:
            os.waitpid(self.pid, os.WUNTRACED)

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end, for so many seconds at most."""
        return bool(select.select([self._end], [], [], seconds)[0])

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_worker(self, index: int) -> bool:
        """Kill one of its worker processes, if there is one."""
        workers = psutil.Process(self.pid).children()
        if workers:
            workers[index % len(workers)].kill()
        return bool(workers)

    def end(self) -> Ended:
        """Wait for the end; AssertionError, with the process killed, if there is none."""
        is_over = self.ends_within(HANG_SECONDS)
        if not is_over:
            self.send(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._end)
        assert is_over, f"it hangs; it printed {self._output.read_text()[-2000:]}"
        code = os.waitstatus_to_exitcode(status)
        # a process that was killed at once has not opened it
        is_there = self._output.exists()
        return Ended(code, self._output.read_text(errors="replace") if is_there else "")


def run(arguments: Sequence[str], output: Path) -> Ended:
    """Run a command to its end."""
    return Command(arguments, output).end()


def _become(arguments: Sequence[str], output: Path) -> None:
    """Become a command in this process, which was just forked."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore them
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - until the process ends
        sys.argv = ["leadline", *arguments]
        code = _exit_code()
    except KeyboardInterrupt:  # before the command began, or after its end
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - Python would print it, and so does this
        import traceback

        traceback.print_exc()
        return 1
    return 0


def served(log: Path) -> list[tuple[str, int]]:
    """Return the requests of a log; its last line may still be without its end."""
    text = log.read_text() if log.exists() else ""
    return [(id, int(ordinal)) for id, ordinal in re.findall(r"(\S+) (\d+)\n", text)]
