"""Real processes: a domain that hangs, exhausts memory, crashes or prints affects one answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import LeadlineError, PluginError
from orchestrator.core.values import PluginSpec
from orchestrator.runtime.answer_workers import AnswerWorkers, ClassMatch, Resolution, Undecided
from orchestrator.runtime.workers.child import Load
from orchestrator.runtime.workers.pool import CallFailed, plugin_reference

DOMAINS = '''
import dataclasses, os, subprocess, sys, time
from typing import ClassVar

hoard = []

@dataclasses.dataclass(frozen=True, slots=True)
class Odd:
    """Does what the answer says."""
    letter: str = "x"
    in_process: ClassVar[bool] = False

    def extract(self, text, finished):
        self._obey(text)
        return None if text == "abstain" else text if text != "number" else 5

    def canonical(self, answer):
        return self.letter + answer

    def resolve(self, answer):
        self._obey(answer)
        return 5 if answer == "number" else f"={os.getpid()} {answer}"

    def describe(self, answer):
        self._obey(answer)
        return 5 if answer == "number" else f"{self.letter} {answer}"

    def equivalent(self, a, b):
        self._obey(b)
        return a == b

    def _obey(self, text):
        if text == "hang":
            while True:
                pass
        elif text.startswith("note and hang "):
            with open(text[14:], "a") as file:
                file.write("x")
            while True:
                pass
        elif text == "hang in C":
            sum(range(10**15))
        elif text == "eat":
            while True:
                hoard.append(bytearray(1 << 28))
        elif text == "grow":  # a little with each call
            hoard.append(bytearray(300 << 20))
        elif text == "crash":
            os._exit(3)
        elif text == "segfault":
            os.kill(os.getpid(), 11)
        elif text == "print":
            print("noise", flush=True)
            os.write(1, b"more noise")
            sys.stdin.read()
        elif text == "raise":
            raise ValueError("no such thing")
        elif text == "exit":
            sys.exit(5)
        elif text.startswith("die "):  # die N FILE: the first N times that this is asked
            n, path = text[4:].split(" ", 1)
            with open(path, "a") as file:
                file.write("x")
            if os.path.getsize(path) <= int(n):
                os.kill(os.getpid(), 9)
        elif text.startswith("spawn "):
            pid = subprocess.Popen(["sleep", "60"]).pid
            open(text[6:], "w").write(f"{os.getpid()} {pid}")
            time.sleep(60)

@dataclasses.dataclass(frozen=True)
class Dying:
    """Its process is killed while it loads, the first `n_deaths` times."""
    path: str
    n_deaths: int
    in_process: ClassVar[bool] = False

    def __post_init__(self):
        with open(self.path, "a") as file:
            file.write("x")
        if os.path.getsize(self.path) <= self.n_deaths:
            os.kill(os.getpid(), 9)

    def resolve(self, answer):
        return f"={answer}"

@dataclasses.dataclass(frozen=True)
class Broken:
    in_process: ClassVar[bool] = False
    def __post_init__(self):
        raise RuntimeError("cannot be built")
'''


def domain(spec: PluginSpec, origin: str) -> Load:
    return plugin_reference("domains", spec, origin=origin)


ODD = domain(PluginSpec("odd"), "odd_domains:Odd")
MATH = domain(PluginSpec("math"), "verifiers.answers.math:Math")


@pytest.fixture(autouse=True)
def odd_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module, importable here only by `sys.path`: the processes must see it too."""
    (tmp_path / "odd_domains.py").write_text(DOMAINS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
async def workers() -> AsyncIterator[AnswerWorkers]:
    pool = AnswerWorkers(n_workers=2, limit_seconds=1.0, memory_bytes=1 << 30)
    yield pool
    await pool.aclose()


async def test_an_optional_method_is_called_under_the_same_limits(workers: AnswerWorkers) -> None:
    """What it returns must have the type that the caller names."""
    assert await workers.apply(ODD, "describe", "a", kind=str) == "x a"
    for text, reason in (
        ("hang", "took more than 1 s"),
        ("crash", "exited with status 3"),
        ("raise", "ValueError: no such thing"),
    ):
        with pytest.raises(CallFailed, match=reason):
            await workers.apply(ODD, "describe", text, kind=str)
    with pytest.raises(CallFailed, match="returned 5, not a str"):
        await workers.apply(ODD, "describe", "number", kind=str)
    assert await workers.apply(ODD, "describe", "b", kind=str) == "x b"


async def test_match_names_the_first_equivalent_representative(workers: AnswerWorkers) -> None:
    assert await workers.match(ODD, "b", ["a", "b", "b"]) == ClassMatch(1)
    assert await workers.match(ODD, "c", ["a", "b"]) == ClassMatch(None)
    assert await workers.match(ODD, "c", []) == ClassMatch(None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("hang", "took more than 1 s"),
        ("hang in C", "took more than 1 s"),
        ("crash", "the worker process exited with status 3"),
        ("segfault", "the worker process was killed by SIGSEGV"),
        ("raise", "raised ValueError: no such thing"),
        ("exit", "raised SystemExit: 5"),
    ],
)
@pytest.mark.slow
async def test_a_pair_that_fails_is_named_and_the_pairs_after_it_are_still_compared(
    workers: AnswerWorkers, bad: str, reason: str
) -> None:
    """An undecided pair must be reported, and must not hide the class of the answer."""
    match = await workers.match(ODD, "good", ["other", bad, "another", "good"])
    assert match.index == 3
    (undecided,) = match.undecided
    assert undecided.index == 1
    assert undecided.reason.startswith(reason)
    assert await workers.match(ODD, "a", ["b", "a"]) == ClassMatch(1)


async def test_a_pair_that_eats_memory_is_named_long_before_the_machine_suffers() -> None:
    async with contextlib.aclosing(
        AnswerWorkers(n_workers=1, limit_seconds=60, memory_bytes=1 << 29)
    ) as pool:
        match = await pool.match(ODD, "good", ["eat", "good"])
        assert match == ClassMatch(1, (Undecided(0, "needed more than 512 MiB of memory"),))


@pytest.mark.slow
async def test_a_pair_that_reached_its_limit_is_not_tried_again(
    workers: AnswerWorkers, tmp_path: Path
) -> None:
    """Otherwise sixty-four traces with one hanging answer would cost sixty-four time limits."""
    log = tmp_path / "log"
    for _ in range(2):
        match = await workers.match(ODD, "good", [f"note and hang {log}"])
        assert match == ClassMatch(None, (Undecided(0, "took more than 1 s"),))
    assert log.read_text() == "x"


@pytest.mark.slow
async def test_an_answer_that_hangs_with_two_others_is_not_tried_with_the_rest(
    workers: AnswerWorkers,
) -> None:
    """A hanging answer costs two time limits, not one per class; the others are not blamed."""
    good = ["a", "b", "c", "d", "good"]
    assert (await workers.match(ODD, "good", ["hang"])).undecided
    assert (await workers.match(ODD, "a", ["hang"])).undecided
    match = await workers.match(ODD, "b", ["hang", *good])
    assert match == ClassMatch(
        2, (Undecided(0, "one of the two answers has reached a limit 2 times before"),)
    )
    assert await workers.match(ODD, "good", good) == ClassMatch(4)


async def test_text_that_utf_8_cannot_carry_does_not_break_the_pool(
    workers: AnswerWorkers,
) -> None:
    assert (await workers.match(ODD, "a\ud800", ["b\ud800", "a\ud800"])).index == 1
    assert (await workers.examine(ODD, "a\ud800", True)).answer == "a?"


async def test_printing_and_reading_standard_input_do_not_disturb_the_messages(
    workers: AnswerWorkers,
) -> None:
    assert await workers.match(ODD, "good", ["print", "good"]) == ClassMatch(1)


@pytest.mark.slow
async def test_examine_reads_in_the_process_and_names_what_fails(workers: AnswerWorkers) -> None:
    examined = await workers.examine(
        domain(PluginSpec("odd", {"letter": "="}), ODD.origin), "blue", True
    )
    assert (examined.answer, examined.canonical, examined.note) == ("blue", "=blue", "")
    assert (await workers.examine(ODD, "abstain", True)).answer is None
    assert (await workers.examine(ODD, "hang", True)).note == "took more than 1 s"
    assert (await workers.examine(ODD, "raise", True)).note == "raised ValueError: no such thing"
    assert "it returned 5, not a str" in (await workers.examine(ODD, "number", True)).note


async def test_a_domain_that_does_not_load_is_a_plugin_error(workers: AnswerWorkers) -> None:
    for origin in ("odd_domains:Broken", "odd_domains:Missing", "no_such_module:X", "__main__:X"):
        with pytest.raises(PluginError, match="odd"):
            await workers.match(domain(PluginSpec("odd"), origin), "a", ["b"])
    with pytest.raises(PluginError, match="letter"):
        await workers.match(domain(PluginSpec("odd", {"lettre": "x"}), ODD.origin), "a", ["b"])
    assert await workers.match(ODD, "a", ["a"]) == ClassMatch(0)


def _dying(tmp_path: Path, n_deaths: int) -> tuple[Load, Path]:
    starts = tmp_path / "starts"
    options = {"path": str(starts), "n_deaths": n_deaths}
    return domain(PluginSpec("dying", options), "odd_domains:Dying"), starts


async def test_a_process_killed_before_it_first_served_is_started_again(
    workers: AnswerWorkers, tmp_path: Path
) -> None:
    """A kill from outside, by the kernel's OOM killer say, is not the fault of the plugin."""
    plugin, starts = _dying(tmp_path, 2)
    assert await workers.resolve(plugin, "a") == Resolution("=a")
    assert starts.read_text() == "xxx"


async def test_a_plugin_whose_process_dies_at_every_start_does_not_load(
    workers: AnswerWorkers, tmp_path: Path
) -> None:
    plugin, starts = _dying(tmp_path, 100)
    with pytest.raises(PluginError, match=r"'dying' does not load.*killed by SIGKILL"):
        await workers.resolve(plugin, "a")
    assert starts.read_text() == "xxx"
    assert await workers.resolve(ODD, "a") is not None
    assert starts.read_text() == "xxx"


async def test_a_machine_that_starts_no_process_is_an_error_with_its_remedy(
    workers: AnswerWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no traceback; the job continues with the same command."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(LeadlineError, match=r"no worker process can be started: .*; free some"):
        await workers.resolve(ODD, "a")
    monkeypatch.undo()
    assert (await workers.resolve(MATH, "a")).key is not None


_CANCELLED_START = """
import asyncio, contextlib, psutil
from orchestrator.core.values import PluginSpec
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.workers.pool import plugin_reference

async def main():
    number = plugin_reference("domains", PluginSpec("number"))
    async with contextlib.aclosing(AnswerWorkers()) as workers:
        call = asyncio.create_task(workers.resolve(number, "1"))
        while not psutil.Process().children():
            await asyncio.sleep(0)
        if {cancels}:
            call.cancel()

asyncio.run(main())
print(len(psutil.Process().children()))
"""


@pytest.mark.parametrize("cancels", [True, False])
def test_a_loop_that_closes_while_a_process_starts_ends_and_leaves_none(cancels: bool) -> None:
    """asyncio waits forever for a process whose start was cancelled, and the job with it."""
    script = _CANCELLED_START.format(cancels=cancels)
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "0\n", ended.stderr


async def test_a_call_whose_process_ends_with_the_pool_starts_no_other(
    workers: AnswerWorkers,
) -> None:
    """Nobody would wait for the start, and the end of the loop would cancel it."""
    call = asyncio.create_task(workers.resolve(MATH, "1"))
    await _until(lambda: len(_children()) == 1)
    await workers.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await call
    assert _children() == set()


async def test_two_hundred_calls_at_once_all_get_their_own_reply(workers: AnswerWorkers) -> None:
    calls = [
        workers.match(ODD, f"{n}", [f"{n - 1}", f"{n}"] if n % 2 else [f"{n}"]) for n in range(200)
    ]
    matches = await asyncio.gather(*calls)
    assert [match.index for match in matches] == [n % 2 for n in range(200)]


async def test_a_cancelled_call_leaves_no_reply_for_the_next(workers: AnswerWorkers) -> None:
    """Otherwise the next caller would get the reply to another call."""
    call = asyncio.create_task(workers.match(ODD, "a", ["hang"]))
    await _until(lambda: len(_children()) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await workers.match(ODD, "a", ["b", "a"]) == ClassMatch(1)


async def test_no_process_before_the_first_call_and_none_after_aclose() -> None:
    pool = AnswerWorkers(n_workers=2)
    assert _children() == set()
    await pool.match(ODD, "a", ["b"])
    assert len(_children()) == 1
    await pool.aclose()
    assert _children() == set()
    with pytest.raises(RuntimeError):
        await pool.match(ODD, "a", ["c"])


async def test_a_process_that_dies_while_idle_is_replaced(workers: AnswerWorkers) -> None:
    await workers.match(ODD, "a", ["b"])
    (pid,) = _children()
    os.kill(pid, signal.SIGKILL)
    await _until(lambda: pid not in _children())
    assert await workers.match(ODD, "a", ["a"]) == ClassMatch(0)


@pytest.mark.parametrize("n_deaths", [2, 9])
async def test_a_call_whose_process_others_kill_is_made_again(
    workers: AnswerWorkers, tmp_path: Path, n_deaths: int
) -> None:
    """Such as the kernel for want of memory: the answer is not at fault, unless it is every time.

    An answer that is read, applied, resolved or compared three times in vain is given up.
    """
    path = [str(tmp_path / f"asked{i}") for i in range(4)]
    text = [f"die {n_deaths} {one}" for one in path]
    read = await workers.examine(ODD, text[0], finished=True)
    resolved = await workers.resolve(ODD, text[1])
    match = await workers.match(ODD, text[2], ["other", text[2]])
    if n_deaths == 2:
        assert (read.answer, read.note) == (text[0], "")
        assert str(resolved.key).endswith(text[1])
        assert match == ClassMatch(1)
        assert await workers.apply(ODD, "describe", text[3], kind=str) == f"x {text[3]}"
    else:
        reason = "the worker process was killed by SIGKILL"
        assert (read.answer, read.note) == (None, reason)
        assert resolved == Resolution(None, reason)
        assert match == ClassMatch(None, (Undecided(1, reason),))
        with pytest.raises(CallFailed, match="killed by SIGKILL"):
            await workers.apply(ODD, "describe", text[3], kind=str)
    assert list(map(os.path.getsize, path)) == [3] * 4


async def test_a_process_killed_just_before_it_is_asked_costs_nothing(
    workers: AnswerWorkers,
) -> None:
    """A process may be killed while idle, and its death is detected only a moment later.

    The system may kill it for its memory at any time.
    """
    await workers.match(ODD, "a", ["b"])
    (pid,) = _children()
    os.kill(pid, signal.SIGKILL)
    assert await workers.match(ODD, "a", ["a"]) == ClassMatch(0)


@pytest.mark.slow
async def test_what_a_killed_domain_had_started_is_killed_too(
    workers: AnswerWorkers, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    await workers.match(ODD, "a", [f"spawn {note}"])
    pids = [int(pid) for pid in note.read_text().split()]
    await _until(lambda: not any(map(_runs, pids)))


@pytest.mark.parametrize("busy_with", ["hang", "hang in C", "print"])
async def test_kill_9_of_the_parent_leaves_no_process(tmp_path: Path, busy_with: str) -> None:
    """No process may outlive a killed run, whether idle or in an endless computation."""
    script = f"""
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {str(tmp_path)!r})
from orchestrator.core.values import PluginSpec
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.workers.pool import plugin_reference
odd = plugin_reference("domains", PluginSpec("odd"), origin="odd_domains:Odd")
async def main():
    pool = AnswerWorkers(n_workers=1, limit_seconds=60)
    await pool.match(odd, "a", ["b"])
    (pid,) = Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()
    call = asyncio.create_task(pool.match(odd, "a", [{busy_with!r}]))
    await asyncio.sleep(0.2)
    print(pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs in this loop
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await _until(lambda: not _runs(pid))


async def test_a_key_is_found_once(workers: AnswerWorkers, tmp_path: Path) -> None:
    """Also where the answer reached its limit: it would reach it again."""
    log = tmp_path / "log"
    first = await workers.resolve(ODD, "a")
    assert first.key is not None
    assert first.key.endswith(" a")
    assert await workers.resolve(ODD, "a") == first
    for _ in range(2):
        resolution = await workers.resolve(ODD, f"note and hang {log}")
        assert resolution.key is None
        assert resolution.note.startswith("took more than")
    assert log.read_text() == "x"
    assert (await workers.resolve(ODD, "number")).note == "returned 5, not a str"


async def test_memory_that_other_answers_took_is_not_blamed_on_one() -> None:
    """A process that has served others is replaced once before an answer is given up."""
    async with contextlib.aclosing(
        AnswerWorkers(n_workers=1, limit_seconds=60, memory_bytes=1 << 30)
    ) as pool:
        keys = [(await pool.resolve(ODD, "grow" if n == 0 else f"{n}")).key for n in range(2)]
        assert None not in keys
        resolution = await pool.resolve(ODD, "eat")
        assert resolution == Resolution(None, "needed more than 1024 MiB of memory")
        assert (await pool.resolve(ODD, "good")).key is not None


@pytest.mark.slow
async def test_math_compares_in_the_process_and_survives_a_tower_of_powers() -> None:
    async with contextlib.aclosing(AnswerWorkers(n_workers=1, limit_seconds=5.0)) as pool:
        assert await pool.match(MATH, r"2\sqrt{3}", ["5", r"\sqrt{12}"]) == ClassMatch(1)
        match = await pool.match(MATH, r"\sqrt{12}", ["10^{10^{10}}+1", r"2\sqrt{3}"])
        assert match.index == 1


def test_limits_under_which_nothing_could_work_are_refused() -> None:
    for wrong in ({"n_workers": 0}, {"limit_seconds": 0.0}, {"memory_bytes": 1 << 20}):
        with pytest.raises(ValueError, match="AnswerWorkers needs"):
            AnswerWorkers(**wrong)  # type: ignore[arg-type]  # one wrong value at a time


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another process, which cannot be awaited; fail after a minute."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # another process sets no Event here
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _others() -> Iterator[None]:
    """Record the processes that other tests have left.

    They may be a running engine, a waiting user function, or a zombie.
    """
    _before.update(child.pid for child in psutil.Process().children())
    yield
    _before.clear()


_before: set[int] = set()


def _children() -> set[int]:
    """Return the worker processes that this test started."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.pid not in _before and not _is_other(child)
    }


def _is_other(child: psutil.Process) -> bool:
    """Return whether a process has ended or is known not to be a worker.

    Between fork and exec it still has its parent's command line.
    """
    try:
        command = child.cmdline()
    except psutil.ZombieProcess:  # not yet reaped by its pool
        return False
    except psutil.NoSuchProcess:
        return True
    return (
        bool(command)
        and "workers.child" not in " ".join(command)
        and command != psutil.Process().cmdline()
    )


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
