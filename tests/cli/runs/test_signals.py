"""Signals of a running job beyond the first Ctrl-C: lost connections, strategies that compute."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = ("--execution.engine", "fake", "--domain", "number")
ENDLESS = """
import sys
from dataclasses import dataclass
from orchestrator.cli.main import main
from orchestrator.plan import registry

@registry.strategy("endless")
@dataclass(frozen=True)
class Endless:
    def explore(self, problem, rng):
        print("computing", file=sys.__stdout__, flush=True)
        while True:
            pass
        yield

main()
"""


def write_problems(path: Path, n: int) -> None:
    rows = ({"id": f"q{i}", "prompt": f"What is {i}?"} for i in range(n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_the_first_signal_interrupts_a_step_of_the_strategy(tmp_path: Path) -> None:
    """The loop gets no turn while a strategy computes, up to `strategy_seconds`."""
    write_problems(tmp_path / "p.jsonl", 2)
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, "endless.py", "run", "--problems", "p.jsonl", *FAKE, "--debug"]
    command += ["--strategy", "endless", "--execution.strategy_seconds", "3600"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "computing" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "0 of 2 problems are done" in stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "runs/p/results.jsonl").read_text() == ""  # no problem failed by it


def test_an_interruption_among_the_first_steps_prints_one_line(tmp_path: Path) -> None:
    """Here of the event loop, which is half made then; Python would report that it cannot close."""
    write_problems(tmp_path / "p.jsonl", 2)
    program = (
        "from asyncio.selector_events import BaseSelectorEventLoop as Loop\n"
        "from orchestrator.cli.main import main\n"
        "def interrupt(self):\n    raise KeyboardInterrupt\n"
        "Loop._make_self_pipe = interrupt\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "run", "--problems", "p.jsonl", *FAKE]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "leadline: interrupted\n")


def test_a_disk_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_problems(tmp_path / "p.jsonl", 2)
    program = (
        "import errno, pathlib\n"
        "from orchestrator.cli.main import main\n"
        "def fail(self, pattern):\n"
        "    raise OSError(errno.EIO, 'Input/output error', str(self))\n"
        "pathlib.Path.glob = fail\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "run", "--problems", "p.jsonl", *FAKE]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.endswith("runs/p: Input/output error; check the disk\n")
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_lost_terminal_ends_the_job_with_its_results_unless_under_nohup(
    tmp_path: Path, is_ignored: bool
) -> None:
    """A dropped connection is the most common end of a job; nothing can be printed any more."""
    write_problems(tmp_path / "p.jsonl", 6)
    speed = ("--execution.engine.seconds_per_token", "0.02", "--execution.window", "4")
    command = [sys.executable, "-m", "orchestrator", "run", "--problems", "p.jsonl", *FAKE, *speed]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        if is_ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.dup2(os.open("nohup.out", os.O_WRONLY | os.O_CREAT), 1)
        os.execv(command[0], command)
    while b"attempts" not in os.read(terminal, 65536):
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if is_ignored else 129)
    assert (tmp_path / "runs/p/results.jsonl").exists()
    assert not list((tmp_path / "runs/p").glob(".results*"))
