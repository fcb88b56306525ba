"""Programs that try to outlive or exceed their limits, and what the sandbox does where it cannot be
had.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from verifiers.programs import sandbox
from verifiers.programs.judge import fault_found
from verifiers.programs.sandbox import Limits

pytestmark = pytest.mark.usefixtures("sandboxing")


async def test_a_program_that_sleeps_for_ever_is_ended(watched: Any) -> None:
    """With every signal ignored and its output closed, which must not look like its end."""
    program = """
import os, signal, time
for n in range(1, 65):
    try:
        signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
os.close(1), os.close(2), os.close(0)
while True:
    time.sleep(1000)
"""
    outcome, seen = await watched(program, limits=Limits(wall_seconds=0.5))
    assert outcome.fault == "took more than 0.5 s"
    assert seen.pids
    assert seen.alive == []


@pytest.mark.slow
async def test_a_busy_loop_is_ended_by_the_kernel(watched: Any) -> None:
    """CPU time is counted by the kernel, so that a job too busy to look at its clock loses none.

    Its signal ignored, the next one kills.
    """
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    outcome, seen = await watched(program, limits=Limits(seconds=1, wall_seconds=60))
    assert "CPU time" in outcome.fault
    assert seen.alive == []


async def test_memory_ends_where_the_limit_is(watched: Any) -> None:
    """By Python objects and by mappings of memory, neither gets more than the address space
    allowed.
    """
    program = """
import mmap
kept = []
def fill(take):
    try:
        while len(kept) < 10_000:
            kept.append(take())
    except (MemoryError, OSError):
        return len(kept)
print(fill(lambda: bytearray(16 << 20)) < 16, fill(lambda: mmap.mmap(-1, 1 << 20)) < 256)
raise MemoryError
"""
    outcome, seen = await watched(program, limits=Limits(memory_mib=256))
    assert outcome.output == b"True True\n"
    assert outcome.fault == "MemoryError"
    assert seen.resident_bytes < 300 << 20


async def test_the_least_memory_is_enough_to_start() -> None:
    """64 MiB are what the verifier allows at least."""
    assert await sandbox.run("print(1)", limits=Limits(memory_mib=64)) == sandbox.ProgramOutcome(
        b"1\n", ""
    )


@pytest.mark.slow
async def test_endless_recursion_ends_the_program_only(watched: Any) -> None:
    """In Python and in C code, with the limit of recursion lifted."""
    for body in (
        "def f(n): return f(n + 1)\nf(0)",
        "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
    ):
        outcome, seen = await watched(
            f"import sys\nsys.setrecursionlimit(10**9)\n{body}",
            limits=Limits(seconds=2, memory_mib=128),
        )
        assert outcome.fault
        assert seen.alive == []


async def test_a_flood_of_output_is_cut(watched: Any) -> None:
    """The job would otherwise hold it in memory."""
    outcome, seen = await watched(
        "while True: print('x' * 1000)", limits=Limits(output_kib=64, wall_seconds=60)
    )
    assert outcome.fault == "printed more than 64 KiB"
    assert len(outcome.output) <= 64 << 10
    assert seen.alive == []


async def test_a_flood_that_outruns_the_reader_is_cut_at_once() -> None:
    """A megabyte that lies in the pipe at once makes the job's reader pause; the process is killed
    all the same, and the reason is the flood, not the wall limit.
    """
    program = """
import fcntl, os, time
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
os.write(1, b"x" * (1 << 20))
time.sleep(1000)
"""
    limits = Limits(output_kib=16, wall_seconds=1000)
    outcome = await sandbox.run(program, limits=limits, protected=False)
    assert outcome.fault == "printed more than 16 KiB"
    assert len(outcome.output) <= 16 << 10


@pytest.mark.slow
async def test_a_flood_that_outlives_its_program_is_still_reported_as_that(tmp_path: Path) -> None:
    """An unprotected program can leave a process behind that goes on printing: the job waits until
    the wall limit, and reports the limit that came first.
    """
    left = tmp_path / "pid"
    program = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    os.rename("pid", {str(left)!r})
    while True:
        os.write(1, b"x" * 1000)
time.sleep(1000)
"""
    limits = Limits(output_kib=16, wall_seconds=5, files_mib=1)
    outcome = await sandbox.run(program, limits=limits, protected=False)
    os.kill(int(left.read_text()), signal.SIGKILL)
    assert outcome.fault == "printed more than 16 KiB"


async def test_a_flood_of_errors_is_cut() -> None:
    """Of what is written on standard error the job keeps the end."""
    outcome = await sandbox.run(
        "import sys\nfor _ in range(20000): sys.stderr.write('x' * 999 + '\\n')\n"
        "sys.exit('the end')"
    )
    assert outcome.fault == "the end"


async def test_by_default_no_file_is_written_at_all(watched: Any) -> None:
    """Strict: the kernel refuses to create one, so that there is nothing to count."""
    outcome, seen = await watched("import os\nprint(os.listdir())\nopen('f', 'w')")
    assert outcome.output == b"[]\n"
    assert "Permission denied" in outcome.fault
    assert seen.folder_bytes == 0


async def test_the_disk_is_not_filled(watched: Any) -> None:
    """Neither by one large file, which the kernel bounds, nor by many: 1 GiB would be five looks
    missed at 4 GB/s.
    """
    few = Limits(files_mib=4, wall_seconds=60)
    outcome, seen = await watched(
        "f = open('f', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()", limits=few
    )
    assert "File too large" in outcome.fault
    assert seen.folder_bytes <= 4 << 20
    many = """
i = 0
while True:
    i += 1
    with open(str(i), 'wb') as f: f.write(b'x' * (1 << 20))
"""
    outcome, seen = await watched(many, limits=few)
    assert outcome.fault == "wrote more than 4 MiB or 1000 files"
    assert seen.folder_bytes < 1 << 30
    outcome, seen = await watched(
        "i = 0\nwhile True:\n    i += 1\n    open(str(i), 'w').close()", limits=few
    )
    assert outcome.fault == "wrote more than 4 MiB or 1000 files"
    assert seen.alive == []


async def test_input_that_nobody_reads_does_not_hang() -> None:
    """Ten megabytes do not fit into a pipe."""
    outcome = await sandbox.run("print('done')", b"x" * (10 << 20))
    assert outcome == sandbox.ProgramOutcome(b"done\n", "")


async def test_an_early_end_is_no_pass() -> None:
    """A program that exits with status 0 before its test, in whatever way, has not come through the
    test.
    """
    for leave in (
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "exit()",
    ):
        assert await fault_found(f"def f(): return 1\n{leave}", "assert f() == 1"), leave
    assert await fault_found("def f(): return 1", "assert f() == 1") == ""


async def test_cancelling_kills_the_program(watching: Any) -> None:
    """A job that is stopped leaves nothing behind."""
    async with watching() as seen:
        task = asyncio.create_task(sandbox.run("import time\ntime.sleep(1000)"))
        await seen.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen.alive == []


@pytest.mark.slow
async def test_a_stray_process_of_an_unprotected_program_holds_nobody_up(tmp_path: Path) -> None:
    """Without the protection a program can leave one behind, which keeps the pipes open; the job
    goes on all the same.
    """
    left = tmp_path / "pid"
    program = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    open({str(left)!r}, "w").write(str(os.getpid()))
    time.sleep(1000)
"""
    async with asyncio.timeout(60):
        outcome = await sandbox.run(
            program, limits=Limits(wall_seconds=5, files_mib=1), protected=False
        )
    os.kill(int(left.read_text()), signal.SIGKILL)
    assert outcome.fault == "took more than 5 s"


async def test_as_many_run_at_once_as_there_are_cores(watching: Any) -> None:
    """A thousand traces that arrive at once must not start a thousand interpreters."""
    async with watching() as seen:
        await asyncio.gather(
            *(sandbox.run("import time\ntime.sleep(0.1)") for _ in range(3 * sandbox.n_slots()))
        )
    assert 1 <= seen.n_processes <= sandbox.n_slots()


def test_here_it_lacks_nothing() -> None:
    """The kernel has what it takes (or this is skipped), so the probe, which tries to get out, must
    find nothing open.
    """
    assert sandbox.lacking() == ""


def script(body: str) -> str:
    """Return a program that can use the sandbox, to be run by another interpreter."""
    imports = "import asyncio, os\nfrom verifiers.programs import sandbox"
    return f"import sys\nsys.path[:0] = {sys.path!r}\n{imports}\n{body}"


@pytest.mark.slow
def test_it_does_not_outlive_a_job_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the job, which then can end nothing itself."""
    body = """
program = "import time\\nopen('started', 'w').close()\\ntime.sleep(1000)"
limits = sandbox.Limits(wall_seconds=1000, files_mib=1)
asyncio.run(sandbox.run(program, limits=limits))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script(body)], env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as job:
        while not list(tmp_path.glob("leadline-*/started")):
            assert job.poll() is None
            time.sleep(0.02)
        inside = psutil.Process(job.pid).children()
        job.send_signal(signal.SIGKILL)
    assert inside
    gone, alive = psutil.wait_procs(inside, timeout=60)
    assert gone
    assert not alive


def as_nobody(*command: str) -> str:
    """Return what a command prints when a user without rights runs it; "" when it cannot."""
    try:
        done = subprocess.run(
            command,
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd="/",
        )
    except PermissionError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_it_holds_for_a_user_without_rights() -> None:
    """Containers run as root, people do not: the probe's attempts and a program, as `nobody`, by a
    copy that everybody may read.
    """
    able = "import sys; print(sys.version_info >= (3, 11))"
    python = next(
        (
            path
            for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")
            if as_nobody(path, "-c", able) == "True"
        ),
        "",
    )
    if not python:
        pytest.skip("there is no interpreter that another user may run")
    with tempfile.TemporaryDirectory() as copy:
        os.chmod(copy, 0o755)
        shutil.copytree(Path(sandbox.__file__).parent, f"{copy}/verifiers/programs")
        body = (
            "import asyncio; from verifiers.programs import sandbox as s; "
            "print(repr(s.lacking()), asyncio.run(s.run('print(6 * 7)')))"
        )
        output = as_nobody(python, "-c", f"import sys; sys.path.insert(0, {copy!r}); {body}")
    assert output == r"'' ProgramOutcome(output=b'42\n', fault='')"


NO_LANDLOCK = """
import ctypes, struct
from verifiers.programs.sandbox_child import restrict_calls
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
refuse, allow = (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000)  # 38: ENOSYS, as of old
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), refuse, allow]
restrict_calls(libc, b"".join(struct.pack("=HBBI", *step) for step in steps))
"""


def test_without_landlock_it_refuses_and_says_why() -> None:
    """On a kernel without it (here: made to say so) nothing is run unprotected, unless the plan
    says it in so many words.
    """
    body = f"""{NO_LANDLOCK}
from orchestrator.plan import registry
from orchestrator.core.values import PluginSpec, Problem, Trace
from orchestrator.core.errors import PluginError
print(sandbox.lacking())
try:
    asyncio.run(sandbox.run("print('ran')"))
except sandbox.SandboxError as error:
    print(error)
try:
    registry.load("verifiers", PluginSpec("code-tests"))
except PluginError as error:
    print(error)
loose = registry.load("verifiers", PluginSpec("code-tests", {{"unprotected": True}}))
problem = Problem("p", "?", tags='{{"tests": "assert f() == 1"}}')
print(asyncio.run(loose.score(problem, [Trace(0, "```python\\ndef f(): return 1\\n```")]))[0].score)
"""
    done = subprocess.run([sys.executable, "-c", script(body)], capture_output=True, text=True)
    probe, run, load, score = done.stdout.strip().split("\n")
    assert "Landlock is not available here" in probe
    assert "Landlock is not available here" in run
    assert "unprotected = true" in load
    assert score == "1.0"


@pytest.mark.parametrize(
    ("layer", "refused"),
    [
        (
            "restrict_calls(libc, seccomp_filter(platform.machine()))",
            {"socket", "fork", "thread", "chmod", "truncate", "kill"},
        ),
        (
            "restrict_files(libc, ['/usr', '/lib'], os.getcwd(), writable=True)",
            {"write", "read", "list"},
        ),
    ],
)
def test_each_layer_holds_alone(tmp_path: Path, layer: str, refused: set[str]) -> None:
    """Neither leans on the other for what it is there for."""
    (tmp_path / "victim").write_text("x")
    body = f"""
import ctypes, platform, socket, _thread
from verifiers.programs.sandbox_child import restrict_calls, restrict_files
from verifiers.programs.syscalls import seccomp_filter
os.chdir("/var/tmp")
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
{layer}
victim = {str(tmp_path / "victim")!r}
def fork():
    if os.fork() == 0:
        os._exit(0)
for name, act in {{
    "socket": socket.socket, "fork": fork,
    "thread": lambda: _thread.start_new_thread(int, ()), "chmod": lambda: os.chmod(victim, 0o600),
    "truncate": lambda: os.truncate(victim, 1), "kill": lambda: os.kill(os.getppid(), 0),
    "write": lambda: open(victim, "a"),
    "read": lambda: open(victim), "list": lambda: os.listdir({str(tmp_path)!r}),
}}.items():
    try:
        act()
    except (PermissionError, RuntimeError):
        print(name)
"""
    done = subprocess.run([sys.executable, "-c", script(body)], capture_output=True, text=True)
    assert set(done.stdout.split()) >= refused, done.stderr
