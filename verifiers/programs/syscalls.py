"""The system calls that a sandboxed program may make, as a seccomp filter: a BPF program.

The one rule: what is not listed here is refused (EPERM), so a call that a newer kernel adds is
refused too. Nothing listed makes a process or a thread, opens a socket, signals another process,
changes an attribute of a file, or loosens a limit. What it does not cover: which files may be
opened, which is Landlock's task (`sandbox_child.py`). The exceptions are two things that Landlock
does not see before its ABI 3, and one that hides files from a count: opening a file only to
truncate it, and files without a name.

Numbers: x86_64 from asm/unistd_64.h, aarch64 from asm-generic/unistd.h (Linux 6.1). Filter format:
linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

# name: number on x86_64 and on aarch64 (-1: not there)
_ALLOWED: Mapping[str, tuple[int, int]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "close": (3, 57), "close_range": (436, 436), "fstat": (5, 80),
    "lseek": (8, 62), "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24), "getdents64": (217, 61),
    "ftruncate": (77, 46), "stat": (4, -1), "lstat": (6, -1), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, -1), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "statfs": (137, 43), "fstatfs": (138, 44), "umask": (95, 166),
    "unlink": (87, -1), "unlinkat": (263, 35), "rename": (82, -1), "renameat": (264, 38),
    "renameat2": (316, 276), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226),
    "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "pause": (34, -1), "alarm": (37, -1), "setitimer": (38, 103), "getitimer": (36, 102),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "time": (201, -1), "times": (100, 153), "getrusage": (98, 165), "poll": (7, -1),
    "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72), "getrandom": (318, 278),
    "uname": (63, 160), "sysinfo": (99, 179), "getpid": (39, 172), "gettid": (186, 178),
    "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getgroups": (115, 158), "getpgrp": (111, -1), "getpgid": (121, 155),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
# and which argument holds the flags
_OPENING: Mapping[str, tuple[int, int, int]] = {"open": (2, -1, 1), "openat": (257, 56, 2)}
# Calls with many commands, and those that are allowed: the second argument names the command.
_COMMANDS: Mapping[str, tuple[int, int, tuple[int, ...]]] = {
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. F_SETOWN with F_SETSIG would
    # have the kernel kill another process.
    "fcntl": (72, 25, (0, 1, 2, 3, 4, 1030)),
    # FIONCLEX, FIOCLEX: how Python sets whether a file is inherited
    "ioctl": (16, 29, (0x5450, 0x5451)),
}

# column above, and AUDIT_ARCH_* of linux/audit.h
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # the bit of the x32 numbers, which the x86_64 architecture also accepts
_O_TMPFILE, _O_TRUNC, _O_ACCMODE = 0x400000, 0x200, 3  # asm-generic/fcntl.h
# offsets in struct seccomp_data; each argument has 8 bytes, the low half first
_NR, _ARCH, _ARGS = (0, 4, 16)
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refused: EPERM is 1


def machines() -> list[str]:
    """Return the machines (`platform.machine()`) for which there is a filter."""
    return list(_ARCHITECTURES)


def seccomp_filter(machine: str) -> bytes:
    """Return the filter as an array of struct sock_filter.

    KeyError for a machine that is not among `machines()`.
    """
    column, arch = _ARCHITECTURES[machine]
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, arch, 1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NR),
    ]
    if machine == "x86_64":
        code += [_instruction(_AT_LEAST, _X32, 0, 1), _instruction(_RETURN, _KILL)]
    for numbers in _ALLOWED.values():
        if numbers[column] >= 0:
            code += [_instruction(_EQUAL, numbers[column], 0, 1), _instruction(_RETURN, _ALLOW)]
    for call in _OPENING.values():
        if call[column] >= 0:
            code += _guarded(call[column], call[2], list(_sound_opening()))
    for on_x86_64, on_aarch64, commands in _COMMANDS.values():
        code += _guarded((on_x86_64, on_aarch64)[column], 1, list(_known(commands)))
    return b"".join([*code, _instruction(_RETURN, _REFUSE)])


def _guarded(number: int, argument: int, decision: list[bytes]) -> list[bytes]:
    """Return the code that, for this call, loads the low half of an argument and decides; other
    calls pass by.
    """
    body = [_instruction(_LOAD, _ARGS + 8 * argument), *decision]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _sound_opening() -> Iterator[bytes]:
    """Refuse O_TMPFILE, and O_TRUNC without write access (0, or 3, which asks for none)."""
    yield _instruction(_AND, _O_TMPFILE | _O_TRUNC | _O_ACCMODE)
    yield _instruction(_AT_LEAST, _O_TMPFILE, 2, 0)
    yield _instruction(_EQUAL, _O_TRUNC, 1, 0)
    yield _instruction(_EQUAL, _O_TRUNC | _O_ACCMODE, 0, 1)
    yield _instruction(_RETURN, _REFUSE)
    yield _instruction(_RETURN, _ALLOW)


def _known(commands: tuple[int, ...]) -> Iterator[bytes]:
    for command in commands:
        yield _instruction(_EQUAL, command, 0, 1)
        yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _REFUSE)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
