"""Nodes of a Ray cluster that have a network and a clock of their own, for `outages.py`.

All run on this machine: a node is `ray start` in a network namespace, joined to the head by a
bridge, so that a cut leaves both ends alive and without a sign of the other. Their clocks are set
by libfaketime. Needs root and `ip`; clocks also need `apt-get install libfaketime`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from nodes import HEALTH, STORE_BYTES, send, wait_for_port

BRIDGE, NET = "leadline0", "10.213.0"
HEAD, PORT = f"{NET}.1", 6399
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


@dataclass(slots=True)
class Host:
    """A node with its namespace."""

    number: int
    process: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return f"leadline{self.number}"


@dataclass(slots=True)
class Hosts:
    """A head in the network of this machine, and nodes that have one each."""

    head: subprocess.Popen[bytes]
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
        self.hosts.append(Host(number, _ray([*options], inside, clock or {})))
        return self.hosts[-1]

    def alive(self) -> list[Host]:
        """Return the nodes on which Ray runs; one that was declared dead ends when it hears it."""
        return [host for host in self.hosts if host.process.poll() is None]

    def cut(self, host: Host) -> None:
        """Take a node off the network; packets are lost without a word."""
        _ip("link", "set", f"ll{host.number}", "down")

    def mend(self, host: Host) -> None:
        """Bring a node back to the network."""
        _ip("link", "set", f"ll{host.number}", "up")

    def close(self) -> None:
        for host in self.hosts:
            _kill_inside(host.name)
            host.process.kill()
            host.process.wait()
            _ip("netns", "del", host.name)
            subprocess.run(["ip", "link", "del", f"ll{host.number}"], check=False, stderr=-3)
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self.head.pid).children(recursive=True)
            send([*family, psutil.Process(self.head.pid)], signal.SIGKILL)
        self.head.wait()


@contextlib.contextmanager
def hosts() -> Iterator[Hosts]:
    """Yield a cluster with a head alone, which has no processors; nodes are added."""
    if os.geteuid() or not shutil.which("ip"):
        sys.exit("network namespaces need root and `ip`")
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    os.environ.update(RAY_gcs_server_port_wait_time_s="180")
    _remove_left()
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    try:
        system = json.dumps(HEALTH)
        options = (f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=0")
        head = _ray(["--head", *options, "--include-dashboard=false", f"--system-config={system}"])
        started = Hosts(head)
        try:
            wait_for_port(HEAD, PORT)
            yield started
        finally:
            started.close()
    finally:
        _ip("link", "del", BRIDGE)


def _remove_left() -> None:
    """Remove the nodes and the bridge that an earlier run left behind when it was killed."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    for name in re.findall(r"^leadline\d+", listed.stdout, re.MULTILINE):
        _kill_inside(name)
        _ip("netns", "del", name)
    subprocess.run(["ip", "link", "del", BRIDGE], check=False, stderr=subprocess.DEVNULL)


def _ray(
    options: list[str], inside: list[str] | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    store = f"--object-store-memory={STORE_BYTES}"
    return subprocess.Popen(
        [*(inside or []), *ray, store, *options],
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
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
