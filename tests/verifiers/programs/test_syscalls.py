"""The filter as a pure function of a call: decided here by a small interpreter, so that it is
checked for machines we are not on.
"""

from __future__ import annotations

import struct

import pytest

from verifiers.programs.syscalls import machines, seccomp_filter

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers from asm/unistd_64.h and asm-generic/unistd.h.
DANGEROUS = {
    "x86_64": {
        "socket": 41,
        "socketpair": 53,
        "connect": 42,
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "execve": 59,
        "execveat": 322,
        "clone3": 435,
        "kill": 62,
        "tkill": 200,
        "tgkill": 234,
        "ptrace": 101,
        "pidfd_open": 434,
        "process_vm_writev": 311,
        "prctl": 157,
        "seccomp": 317,
        "mount": 165,
        "unshare": 272,
        "setns": 308,
        "chroot": 161,
        "bpf": 321,
        "io_uring_setup": 425,
        "openat2": 437,
        "memfd_create": 319,
        "truncate": 76,
        "chmod": 90,
        "fchmodat2": 452,
        "chown": 92,
        "utimensat": 280,
        "setxattr": 188,
        "setrlimit": 160,
        "prlimit64": 302,
        "shmget": 29,
        "msgget": 68,
        "keyctl": 250,
        "userfaultfd": 323,
        "perf_event_open": 298,
        "setsid": 112,
        "link": 86,
        "symlink": 88,
    },
    "aarch64": {
        "socket": 198,
        "socketpair": 199,
        "connect": 203,
        "clone": 220,
        "execve": 221,
        "execveat": 281,
        "clone3": 435,
        "kill": 129,
        "tkill": 130,
        "tgkill": 131,
        "ptrace": 117,
        "pidfd_open": 434,
        "process_vm_writev": 271,
        "prctl": 167,
        "seccomp": 277,
        "mount": 40,
        "unshare": 97,
        "setns": 268,
        "chroot": 51,
        "bpf": 280,
        "io_uring_setup": 425,
        "openat2": 437,
        "memfd_create": 279,
        "truncate": 45,
        "fchmodat": 53,
        "fchmodat2": 452,
        "fchownat": 54,
        "utimensat": 88,
        "setxattr": 5,
        "prlimit64": 261,
        "setsid": 157,
        "shmget": 194,
        "msgget": 186,
        "keyctl": 219,
        "userfaultfd": 282,
        "perf_event_open": 241,
        "linkat": 37,
        "symlinkat": 36,
    },
}
NEEDED = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "exit_group": 231},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "exit_group": 94},
}
OPENAT = {"x86_64": 257, "aarch64": 56}
FCNTL = {"x86_64": 72, "aarch64": 25}


def decide(code: bytes, arch: int, number: int, *args: int) -> int:
    """Return what a filter says of a call, by the semantics of classic BPF (linux/filter.h)."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *[*args, *[0] * 6][:6])
    steps = list(struct.iter_unpack("=HBBI", code))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, value = steps[at]
        at += 1
        if operation == 0x20:
            [accumulator] = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation in (0x15, 0x35):
            at += (
                if_true
                if (accumulator == value if operation == 0x15 else accumulator >= value)
                else if_false
            )
        elif operation == 0x06:
            return value
        else:
            raise AssertionError(f"unknown operation {operation:#x}")


@pytest.mark.parametrize("machine", machines())
def test_what_could_leave_the_sandbox_is_refused_and_what_a_program_needs_is_not(
    machine: str,
) -> None:
    """On each machine by its own numbers."""
    code = seccomp_filter(machine)
    wrong = [
        name
        for name, number in DANGEROUS[machine].items()
        if decide(code, ARCH[machine], number) != REFUSE
    ]
    assert not wrong
    assert all(decide(code, ARCH[machine], number) == ALLOW for number in NEEDED[machine].values())
    assert len(code) // 8 < 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("machine", machines())
def test_calls_of_a_later_kernel_are_refused(machine: str) -> None:
    """Numbers above the highest that is listed (439): nobody can list what does not exist yet."""
    code = seccomp_filter(machine)
    assert {decide(code, ARCH[machine], number) for number in range(440, 1000)} == {REFUSE}


@pytest.mark.parametrize("machine", machines())
def test_calls_by_another_architecture_kill(machine: str) -> None:
    """The same number means another call there: 32-bit x86 (0x40000003), x32 (bit 30), and each
    machine's on the other.
    """
    code = seccomp_filter(machine)
    for arch in (0x40000003, *(value for name, value in ARCH.items() if name != machine)):
        assert {decide(code, arch, number) for number in range(500)} == {KILL}
    assert machine != "x86_64" or {
        decide(code, ARCH[machine], 0x40000000 | n) for n in range(600)
    } == {KILL}


@pytest.mark.parametrize("machine", machines())
def test_a_file_is_not_opened_only_to_be_truncated_nor_without_a_name(machine: str) -> None:
    """O_TRUNC (0x200) needs write access in the same call; O_TMPFILE (0x400000) never; the high
    half of the argument changes nothing.
    """
    code = seccomp_filter(machine)

    def decided(flags: int) -> int:
        return decide(code, ARCH[machine], OPENAT[machine], 0, 0, flags)

    assert [decided(flags) for flags in (0, 1, 2, 0x201, 0x202, 0x80241)] == [ALLOW] * 6
    assert [decided(flags) for flags in (0x200, 0x203, 0x400001, 0x410002, 0x200 | 1 << 40)] == [
        REFUSE
    ] * 5


@pytest.mark.parametrize("machine", machines())
def test_the_kernel_is_not_asked_to_signal_somebody(machine: str) -> None:
    """fcntl: F_SETOWN 8, F_SETSIG 10, F_SETOWN_EX 15; duplicating (0) and close-on-exec (2) are
    harmless.
    """
    code = seccomp_filter(machine)
    decided = {
        command: decide(code, ARCH[machine], FCNTL[machine], 0, command)
        for command in (0, 2, 8, 10, 15, 1024)
    }
    assert decided == {0: ALLOW, 2: ALLOW, 8: REFUSE, 10: REFUSE, 15: REFUSE, 1024: REFUSE}
