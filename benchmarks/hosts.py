"""Nodes of a Ray cluster that have a network and a clock of their own, for `outages.py`.

All run on this machine: a node is `ray start` in a network namespace, joined to the head by a
bridge, so that a cut leaves both ends alive and without a sign of the other. Their clocks are set
by libfaketime. Needs root and `ip`; clocks also need `apt-get install libfaketime`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from nodes import HEALTH, STORE_BYTES, send, wait_for_port

BRIDGE, NET = "leadline0", "10.213.0"
HEAD, PORT = f"{NET}.1", 6399
_LOCK = Path(tempfile.gettempdir(), "leadline-hosts.lock")
_STARTED = "Ray runtime started"  # in the output of `ray start`
_START_SECONDS = 300
_FAKETIME = "libfaketimeMT.so.1"  # for processes with threads
_FOLDERS = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")


def off_clock(seconds: float) -> dict[str, str]:
    """Return the variables of processes whose clocks are off by so many seconds.

    The monotonic clock is, too: sparing it, libfaketime 0.9.10 breaks Python's `time.sleep`.
    """
    library = next((Path(f, _FAKETIME) for f in _FOLDERS if Path(f, _FAKETIME).exists()), None)
    if library is None:
        sys.exit(f"{_FAKETIME} is not there: apt-get install libfaketime")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+g}"}


class Host:
    """A node with its namespace. Ray is started in it again until it runs: nodes give up early.

    A node that has been up and was declared dead ends, and is not started again.
    """

    def __init__(self, number: int, start: Callable[[], subprocess.Popen[str]]) -> None:
        self.number = number
        self._start = start
        self._is_up = threading.Event()
        self._is_closed = False
        self.process = start()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self) -> None:
        """Return when the node has been up; RuntimeError if it does not start."""
        if not self._is_up.wait(_START_SECONDS):
            raise RuntimeError(f"node {self.number} did not start in {_START_SECONDS} s")

    def close(self) -> None:
        """Do not start it again."""
        self._is_closed = True

    def _watch(self) -> None:
        while not self._is_closed:
            for line in self.process.stdout or ():
                if _STARTED in line:
                    self._is_up.set()
            self.process.wait()
            if self._is_up.is_set():
                return
            time.sleep(1)
            if not self._is_closed:
                self.process = self._start()


@dataclass(slots=True)
class Hosts:
    """The nodes of a cluster, each with a network; its head is in the network of this machine."""

    hosts: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HEAD}:{PORT}"

    def add(self, clock: Mapping[str, str] | None = None) -> Host:
        """Start a node; return before it has joined."""
        number = len(self.hosts) + 10
        name, link = f"leadline{number}", f"ll{number}"
        _ip("netns", "add", name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", link, "master", BRIDGE, "up")
        for words in (
            ("addr", "add", f"{NET}.{number}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *words)
        inside = ["ip", "netns", "exec", name]
        ip = f"{NET}.{number}"
        options = (f"--address={self.address}", f"--node-ip-address={ip}", "--num-cpus=1")
        self.hosts.append(Host(number, lambda: _ray([*options], inside, clock)))
        return self.hosts[-1]

    def alive(self) -> list[Host]:
        """Return the nodes on which Ray runs, when the last ones added do.

        One that was declared dead ends when it hears it.
        """
        for host in self.hosts:
            host.wait()
        return [host for host in self.hosts if host.process.poll() is None]

    def cut(self, host: Host) -> None:
        """Take a node off the network; packets are lost without a word."""
        _ip("link", "set", f"ll{host.number}", "down")

    def mend(self, host: Host) -> None:
        """Bring a node back to the network."""
        _ip("link", "set", f"ll{host.number}", "up")


@contextlib.contextmanager
def hosts() -> Iterator[Hosts]:
    """Yield a cluster with a head alone, which has no processors; nodes are added.

    The names of networks are the machine's, so a second run waits until the first has ended.
    """
    if os.geteuid() or not shutil.which("ip"):
        sys.exit("network namespaces need root and `ip`")
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    os.environ.update(RAY_gcs_server_port_wait_time_s="180")
    started = Hosts()
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or this process is killed
        _remove_all()  # of a run that was killed
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        try:
            system = f"--system-config={json.dumps(HEALTH)}"
            options = (f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=0", system)
            _ray(["--head", *options, "--include-dashboard=false"])
            wait_for_port(HEAD, PORT)
            yield started
        finally:
            for host in started.hosts:
                host.close()
            _remove_all()


def _remove_all() -> None:
    """End the head and all nodes, and remove their networks."""
    head = [one for one in psutil.process_iter(["cmdline"]) if _names_network(one)]
    send(head, signal.SIGKILL)
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    for number in re.findall(r"^leadline(\d+)", listed.stdout, re.MULTILINE):
        _kill_inside(f"leadline{number}")
        _ip("netns", "del", f"leadline{number}")
        _delete_link(f"ll{number}")
    _delete_link(BRIDGE)
    psutil.wait_procs(head)


def _names_network(process: psutil.Process) -> bool:
    return any(f"{NET}." in word for word in process.info["cmdline"] or ())


def _delete_link(name: str) -> None:
    """Delete a link, which may have gone with its namespace."""
    subprocess.run(["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)


def _ray(
    options: list[str], inside: list[str] | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start Ray on a node; the line with `_STARTED` is in its output when it is up."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    store = f"--object-store-memory={STORE_BYTES}"
    return subprocess.Popen(
        [*(inside or []), *ray, store, *options],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _kill_inside(name: str) -> None:
    """End all processes of a namespace."""
    while True:
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        if not pids.stdout.split():
            return
        for pid in map(int, pids.stdout.split()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
