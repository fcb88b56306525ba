"""Programs that try to get out of the sandbox.

What is asserted is what happened outside, not only what the program says.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from verifiers.programs import sandbox
from verifiers.programs.sandbox import Limits

pytestmark = pytest.mark.usefixtures("sandboxing")


ATTEMPTS = """
def attempt(name, act):
    "Say the name of what succeeded; what is refused is silent."
    try:
        act()
    except (OSError, RuntimeError, ValueError):
        return
    print("DID", name)
"""


def snapshot(folder: Path) -> list[tuple[str, bytes, int, int, int, int]]:
    """Return everything about the files of a folder that a program might change."""
    found = []
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found.append(
            (str(path), content, facts.st_mode, facts.st_uid, facts.st_mtime_ns, facts.st_nlink)
        )
    return found


async def test_a_program_reads_prints_and_writes_in_its_own_folder() -> None:
    """The sandbox must not be safe by breaking everything: what solutions of exercises do works."""
    program = """
import os, sys, tempfile, time, json, random, zoneinfo, collections, heapq, itertools, functools
import dataclasses, decimal, re, ctypes, asyncio
open("a.txt", "w").write("kept")
os.rename("a.txt", "b.txt")
with tempfile.NamedTemporaryFile("w+") as f, open(os.devnull, "w") as nothing:
    print("x", file=f)
    print("y", file=nothing)
@dataclasses.dataclass
class Point:
    x: int
def depth(n):
    return 0 if n == 0 else 1 + depth(n - 1)
sys.setrecursionlimit(100_000)
recent = time.localtime().tm_year > 2000
print(input(), Point(1).x, open("b.txt").read(), depth(50_000), recent, zoneinfo.ZoneInfo("UTC"))
exit()
"""
    outcome = await sandbox.run(program, b"given\n", limits=Limits(files_mib=1))
    assert outcome.fault == ""
    assert outcome.output == b"given 1 kept 50000 True UTC\n"


async def test_nothing_outside_the_folder_is_written_changed_or_removed(tmp_path: Path) -> None:
    """Every way to a file: by path, `..`, links, renaming, /proc, truncation, attributes; as this
    user, root included.
    """
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(victim)
    stray = Path(f"/tmp/leadline-stray-{os.getpid()}")
    home = Path.home() / f".leadline-stray-{os.getpid()}"
    before = snapshot(tmp_path)
    program = f"""{ATTEMPTS}
import ctypes, os, shutil, tempfile
victim, folder, link = {str(victim)!r}, {str(tmp_path / "folder")!r}, {str(tmp_path / "link")!r}
open("mine", "w").write("mine")
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "")
up = os.path.relpath(victim)
attempt("append", lambda: open(victim, "a").write("x"))
attempt("overwrite", lambda: open(victim, "w").write("x"))
attempt("update", lambda: open(victim, "r+").write("x"))
attempt("relative", lambda: open(up, "a").write("x"))
attempt("by link", lambda: open(link, "a").write("x"))
attempt("create in /tmp", lambda: open({str(stray)!r}, "w").write("x"))
attempt("create at home", lambda: open({str(home)!r}, "w").write("x"))
attempt("create above", lambda: open("../leadline-stray", "w").write("x"))
attempt("create there", lambda: open(folder + "/new", "w").write("x"))
attempt("chdir and create", lambda: (os.chdir(folder), open("new", "w").write("x")))
def by_handle():
    os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=os.open(folder, os.O_PATH))
attempt("directory handle", by_handle)
attempt("own symlink", lambda: (os.symlink(victim, "l"), open("l", "a").write("x")))
attempt("own hard link", lambda: (os.link(victim, "h"), open("h", "a").write("x")))
attempt("by /proc", lambda: open("/proc/self/fd/0/../../../.." + victim, "a").write("x"))
attempt("by /proc/self/root", lambda: open("/proc/self/root" + victim, "a").write("x"))
attempt("by /proc/self/cwd", lambda: open("/proc/self/cwd/../leadline-stray", "a").write("x"))
attempt("move out", lambda: os.rename("mine", folder + "/mine"))
attempt("move over", lambda: os.replace("mine", victim))
attempt("move in", lambda: os.rename(victim, "stolen"))
attempt("remove", lambda: os.remove(victim))
attempt("remove folder", lambda: os.rmdir(folder))
attempt("make folder", lambda: os.mkdir(folder + "/sub"))
attempt("make folder here", lambda: os.mkdir("sub"))
attempt("make pipe", lambda: os.mkfifo(folder + "/pipe"))
attempt("make device", lambda: os.mknod("device", 0o20666, os.makedev(1, 1)))
attempt("truncate", lambda: os.truncate(victim, 0))
attempt("truncate by opening to read", lambda: os.open(victim, os.O_RDONLY | os.O_TRUNC))
attempt("truncate by opening for neither", lambda: os.open(victim, 3 | os.O_TRUNC))
attempt("nameless file there", lambda: os.open(folder, os.O_TMPFILE | os.O_WRONLY))
attempt("chmod", lambda: os.chmod(victim, 0o777))
attempt("chown", lambda: os.chown(victim, 12345, 12345))
attempt("utime", lambda: os.utime(victim, (1, 1)))
attempt("xattr", lambda: os.setxattr(victim, "user.x", b"x"))
attempt("copy", lambda: shutil.copy("mine", folder))
attempt("mount", lambda: call(165, b"none", folder.encode(), b"tmpfs", 0, None))
attempt("chroot", lambda: os.chroot("."))
attempt("unshare", lambda: call(272, 0x10020000))
attempt("openat2", lambda: call(437, -100, victim.encode(), (ctypes.c_uint64 * 3)(1, 0, 0), 24))
attempt("io_uring", lambda: call(425, 8, (ctypes.c_uint8 * 120)()))
attempt("open by handle", lambda: call(304, 0, None, 1))
print("end")
"""
    outcome = await sandbox.run(program, limits=Limits(files_mib=1))
    assert outcome.fault == ""
    assert outcome.output == b"end\n"
    assert snapshot(tmp_path) == before
    assert not any(map(os.path.lexists, (stray, home, "/tmp/leadline-stray")))


async def test_the_folder_is_gone_afterwards() -> None:
    """What a program leaves there would otherwise fill the disk over a job of many thousand."""
    outcome = await sandbox.run(
        "import os\nfor i in range(50): open(str(i), 'w').write('x' * 1000)\nprint(os.getcwd())",
        limits=Limits(files_mib=1),
    )
    assert outcome.fault == ""
    folder = outcome.output.decode().strip()
    assert "leadline-" in folder
    assert not any(map(os.path.lexists, [folder]))


async def test_no_secret_is_read(tmp_path: Path, secret: tuple[str, int], neighbour: Any) -> None:
    """Files, the environment of the job, other processes, what the job has open: none of it reaches
    the program.
    """
    text, held = secret
    us, them = f"/proc/{os.getpid()}", f"/proc/{neighbour.pid}"
    program = f"""
import os
for path in [
    {str(tmp_path / "key")!r}, {str(tmp_path)!r}, {__file__!r}, {str(Path.home())!r},
    "/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/self/maps", "/proc/self/mem",
    "{us}/environ", "{us}/cmdline", "{us}/fd/{held}", "{them}/environ",
    "/root", "/home", "/", "/tmp", "/sys", "/dev/mem", "/dev/sda",
]:
    try:
        print("READ", path, os.listdir(path) if os.path.isdir(path) else open(path, "rb").read())
    except OSError:
        pass
for fd in range(3, 1024):
    try:
        print("HELD", fd, os.pread(fd, 100, 0))
    except OSError:
        pass
print(dict(os.environ))
"""
    outcome = await sandbox.run(program)
    assert outcome.fault == ""
    assert text.encode() not in outcome.output
    assert b"READ" not in outcome.output
    assert b"HELD" not in outcome.output


async def test_no_network_is_reached(tmp_path: Path) -> None:
    """Servers of every kind listen beside it and hear nothing, by Python's calls and by the
    kernel's.
    """
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.socket(family, kind)) for family, kind in SOCKETS]
        tcp, udp, local, abstract = servers
        for server in (tcp, udp):
            server.bind(("127.0.0.1", 0))
        local.bind(str(tmp_path / "socket"))
        abstract.bind(f"\0leadline-{os.getpid()}")
        for server in (tcp, local, abstract):
            server.listen()
        for server in servers:
            server.setblocking(False)
        program = f"""{ATTEMPTS}
import asyncio, ctypes, os, socket, urllib.request
tcp, udp = {tcp.getsockname()!r}, {udp.getsockname()!r}
local, abstract = {local.getsockname()!r}, {abstract.getsockname()!r}
libc = ctypes.CDLL(None, use_errno=True)
attempt("tcp", lambda: socket.create_connection(tcp).send(b"x"))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", udp))
attempt("unix", lambda: socket.socket(socket.AF_UNIX).connect(local))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect(abstract))
attempt("pair", socket.socketpair)
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("http", lambda: urllib.request.urlopen("http://127.0.0.1:%d/" % tcp[1], timeout=1))
attempt("bind", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("name", lambda: socket.getaddrinfo("example.org", 80))
for number in (41, 53, 198, 199, 425):  # socket and socketpair of two architectures, io_uring_setup
    def call():
        [][0] if libc.syscall(number, 2, 1, 0) >= 0 else os.stat("nothing")
    attempt("call %d" % number, call)
print("end")
"""
        outcome = await sandbox.run(program)
        assert outcome.fault == ""
        assert outcome.output == b"end\n"
        for server in (tcp, local, abstract):
            with pytest.raises(BlockingIOError):
                server.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(1)


SOCKETS = [
    *[(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)],
    *[(socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM)],
]


async def test_no_process_and_no_thread_is_made(tmp_path: Path, watched: Any) -> None:
    """A fork bomb has nothing to grow from: every way to a second task is closed, for root too,
    whom no count of processes stops.
    """
    trace = tmp_path / "ran"
    program = f"""{ATTEMPTS}
import ctypes, multiprocessing, os, subprocess, sys, threading, time, _thread
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), "")
def fork():
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os._exit(0)
for _ in range(300):
    attempt("fork", fork)
attempt("daemon", daemon)
attempt("forkpty", os.forkpty)
attempt("spawn", lambda: os.posix_spawn("/bin/sh", ["sh", "-c", "echo x > {trace}"], {{}}))
attempt("system", lambda: os.system("echo x > {trace}") and os.stat("nothing"))
attempt("popen", lambda: subprocess.run([sys.executable, "-c", "open({str(trace)!r}, 'w')"]))
attempt("exec", lambda: os.execv("/bin/sh", ["sh", "-c", "echo x > {trace}"]))
attempt("execveat", lambda: call(322, -100, b"/bin/sh", None, None, 0))
other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
attempt("multiprocessing", other.start)
attempt("thread", lambda: threading.Thread(target=time.sleep, args=(60,)).start())
attempt("bare thread", lambda: _thread.start_new_thread(time.sleep, (60,)))
for number in (56, 57, 58, 220, 435):  # clone, fork and vfork of two architectures, clone3
    attempt("call %d" % number, lambda: call(number, 17, 0, 0, 0, 0))
attempt("session", os.setsid)
time.sleep(0.1)
print("end")
"""
    outcome, seen = await watched(program)
    assert outcome.fault == ""
    assert outcome.output == b"end\n"
    assert (seen.n_processes, seen.n_threads) == (1, 1)
    assert seen.alive == []
    assert not trace.exists()


async def test_other_processes_are_not_touched(neighbour: Any) -> None:
    """Neither the job nor a neighbour of the same user is signalled, traced, read or limited; nor
    by the kernel on the program's behalf.

    Only the neighbour is shot at in earnest: were the sandbox broken, signal 0 tells so as well and
    leaves the machine running.
    """
    program = f"""{ATTEMPTS}
import ctypes, fcntl, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("kill the neighbour", lambda: os.kill({neighbour.pid}, signal.SIGKILL))
for pid in ({neighbour.pid}, {os.getpid()}, -1, 0, -os.getpgrp()):
    attempt("kill %d" % pid, lambda: os.kill(pid, 0))
    attempt("limit %d" % pid, lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))
    attempt("ptrace %d" % pid, lambda: call(101, 0x4206, pid, 0, 0))  # PTRACE_SEIZE
    attempt("pidfd %d" % pid, lambda: call(434, pid, 0))
    attempt("read memory %d" % pid, lambda: call(310, pid, None, 0, None, 0, 0))
    attempt("priority %d" % pid, lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt("affinity %d" % pid, lambda: os.sched_setaffinity(pid, [0]))
    # and then O_ASYNC: the kernel signals the owner
    attempt("owner %d" % pid, lambda: fcntl.fcntl(0, fcntl.F_SETOWN, pid))
    attempt("signal %d" % pid, lambda: fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGURG))
attempt("raise a limit", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
attempt("outlive the parent", lambda: [][0] if libc.prctl(1, 0) == 0 else os.stat("nothing"))
print("end")
"""
    outcome = await sandbox.run(program)
    assert outcome.fault == ""
    assert outcome.output == b"end\n"
    assert neighbour.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, neighbour.pid) == os.getpriority(os.PRIO_PROCESS, 0)
