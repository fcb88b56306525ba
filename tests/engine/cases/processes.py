"""Processes that tests start, watch and kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

WORDS = (
    "apple",
    "river",
    "stone",
    "cloud",
    "tiger",
    "piano",
    "lemon",
    "candle",
    "window",
    "garden",
    "rocket",
    "button",
)


class Programs:
    """The processes of one test file, killed with all their descendants if they outlive it.

    They get the environment of this object's making: an engine that a test opens meanwhile sets
    variables of its own until it has started.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environment = dict(os.environ)

    def start(self, *command: object, log: Path) -> subprocess.Popen[bytes]:
        """Start Python with these arguments; its output goes to `log`."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=file,
                stderr=file,
                env=self._environment,
            )
        self._processes.append(process)
        return process

    def run(self, *command: object, log: Path) -> None:
        """Run Python with these arguments; AssertionError with the end of `log` when it fails."""
        code = self.start(*command, log=log).wait()
        assert code == 0, log.read_text()[-4000:]

    def kill(self) -> None:
        """End what still runs."""
        for process in self._processes:
            if process.poll() is None:
                kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Kill a process and all its descendants at once; return them."""
    root = psutil.Process(process.pid)
    tree = [root, *root.children(recursive=True)]
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    return tree


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110  # nothing in this process would set an event
        await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def journalled(out: Path) -> dict[tuple[str, int], bytes]:
    """Return the traces in the journal of a job, by problem and ordinal."""
    if not (out / "journal.db").exists():
        return {}
    with sqlite3.connect(f"file:{out / 'journal.db'}?mode=ro", uri=True) as db:
        try:
            return {
                (p, o): body
                for p, o, body in db.execute(
                    "SELECT problem, ordinal, body FROM events WHERE ordinal IS NOT NULL"
                )
            }
        except sqlite3.OperationalError:
            return {}


def mentions(traces: Mapping[tuple[str, int], bytes]) -> tuple[int, int]:
    """Return how often texts about words have their own word, and how often another one.

    The first is far more frequent where completions are paired with their prompts.
    """
    texts = {key: json.loads(body)["text"].lower() for key, body in traces.items()}
    found = [(word, key[0]) for key, text in texts.items() for word in WORDS if word in text]
    n_own = sum(problem == f"w-{word}" for word, problem in found)
    return n_own, len(found) - n_own
