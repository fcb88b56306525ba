"""The sandbox's process: it locks itself in, reports that it is ready, and plays its part.

That is to become the program, or one of two parts in a test: the program that is tested
(`tested_child.py`) or the judge (`judge_child.py`). Each of these has a process of its own.

`sandbox.py` starts it by its path. Standard library only, and no import of ours: the interpreter
that runs it sees nothing else. The one rule: the program's first instruction comes after the last
layer is in place and after the ready mark; a layer that is missing ends the process before both.

Layers: resource limits (CPU, memory, size of a file, open files); Landlock, for which files may be
opened; a seccomp filter, for everything else (`syscalls.py`). There is no other process to look
after: none can be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

READY = b"\x06"  # the first byte on standard output; what follows it is the program's
_MIB = 1 << 20
_OPEN_FILES = 32
# for deep recursion in C code; the usual 8 MiB end a program that recurses within its memory
_STACK_BYTES = 64 * _MIB
# linux/prctl.h, linux/seccomp.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

# linux/landlock.h. The system calls have one number on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
# all that an ABI knows; from 3 on 15 (those after it are about ioctl, refused anyway)
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1}
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE
# ABI 4: bind and connect; ABI 6: abstract sockets and signals. A second lock on what seccomp
# refuses.
_TCP, _SCOPES = 3, 3


def main() -> None:
    """Read a job from standard input, lock in, run it.

    What is left on standard input is the program's.
    """
    job = json.loads(_read_exactly(int.from_bytes(_read_exactly(4), "big")))
    play = _part(job)
    _die_with(int(job["parent"]))
    _limit(job["limits"])
    if job["protected"]:
        libc = ctypes.CDLL(None, use_errno=True)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        writable = job["limits"]["files_mib"] > 0
        restrict_files(libc, job["readable"], job["folder"], writable=writable)
        restrict_calls(libc, bytes.fromhex(job["filter"]))
    os.write(1, READY)
    play()


def _part(job: Mapping[str, Any]) -> Callable[[], None]:
    """Return what this process does once it is locked in; its code is loaded before."""
    if job["part"] == "program":
        return partial(_become, job["source"])
    part = _neighbour(f"{job['part']}_child")
    sys.argv = ["program.py"]
    _give_exit()
    return partial(part.run, _neighbour("peer"), job["source"], tuple(job["channel"]))


def _neighbour(name: str) -> Any:
    """Return a module that is loaded from a file beside this one."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def restrict_files(libc: Any, readable: Iterable[str], folder: str, *, writable: bool) -> None:
    """Allow reading below some paths and, if `writable`, plain files in `folder`; for good.

    No folders, links, pipes or devices in it, so that it stays flat and its size can be counted.
    OSError when the kernel offers no Landlock.
    """
    abi = _checked(libc.syscall(_CREATE_RULESET, None, 0, _VERSION), "Landlock")
    rights = _FILE_RIGHTS.get(abi, (1 << 15) - 1)
    attributes = struct.pack("=QQQ", rights, _TCP, _SCOPES)[
        : 8 if abi < 4 else 16 if abi < 6 else 24
    ]
    rules = _checked(
        libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0),
        "a Landlock ruleset",
    )
    allowed = {path: _READ_FILE | _READ_DIR for path in readable if os.path.exists(path)}
    allowed["/dev/null"] = _OF_A_FILE
    allowed[folder] = (
        _READ_FILE
        | _READ_DIR
        | (_WRITE_FILE | _TRUNCATE | _MAKE_REG | _REMOVE_FILE if writable else 0)
    )
    for path, wanted in allowed.items():
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        granted = wanted & rights & (-1 if os.path.isdir(path) else _OF_A_FILE)
        _checked(
            libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", granted, at), 0),
            f"a Landlock rule for {path}",
        )
        os.close(at)
    _checked(libc.syscall(_RESTRICT_SELF, rules, 0), "Landlock's restriction")
    os.close(rules)


def restrict_calls(libc: Any, code: bytes) -> None:
    """Install a seccomp filter, for good; `no_new_privs` must be set. OSError without seccomp."""

    class Program(ctypes.Structure):  # struct sock_fprog of linux/filter.h
        _fields_ = (("n", ctypes.c_ushort), ("code", ctypes.c_char_p))

    program = Program(len(code) // 8, code)
    _checked(
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp"
    )


def _limit(limits: Mapping[str, Any]) -> None:
    """Set limits that no program can raise again.

    At `seconds` comes SIGXCPU, a second later a signal that nothing can ignore.
    """
    for what, soft, hard in (
        (resource.RLIMIT_CPU, limits["seconds"], limits["seconds"] + 1),
        (resource.RLIMIT_AS, limits["memory_mib"] * _MIB, limits["memory_mib"] * _MIB),
        (resource.RLIMIT_FSIZE, limits["files_mib"] * _MIB, limits["files_mib"] * _MIB),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        most = resource.getrlimit(what)[1]
        hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(what, (min(soft, hard), hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where the machine's memory runs out, this goes first, not the job
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(
        resource.RLIMIT_STACK,
        (_STACK_BYTES if most == resource.RLIM_INFINITY else min(_STACK_BYTES, most), most),
    )


def _become(program: str) -> None:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    _give_exit()
    exec(compile(program, "program.py", "exec"), module.__dict__)


def _give_exit() -> None:
    """Provide `exit` and `quit`, which the module `site` would have provided."""
    import _sitebuiltins
    import builtins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; end now if the parent is dead."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what} is not available here: {os.strerror(error)}")
    return result


def _read_exactly(n: int) -> bytes:
    data = b""
    while len(data) < n:
        chunk = os.read(0, n - len(data))
        if not chunk:
            os._exit(1)  # the parent is gone
        data += chunk
    return data


if __name__ == "__main__":
    main()
