"""A Ray cluster of several nodes on this machine, its replicas' engine, and a job's process.

Its nodes can be killed and stopped. Replicas import this module from the folder of the benchmark.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from orchestrator.core.plan import Model
from orchestrator.core.protocols import EngineNode
from orchestrator.core.values import Capability, Request, Trace
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.plan import registry

STORE_BYTES = 80 * 2**20
# a dead node is known after 3 s instead of 13 s or more: preempted machines give notice
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@dataclass(frozen=True, slots=True)
class Slotted:
    """The fake engine with `slots` requests at a time, each for about `seconds`."""

    seconds: float = 0.25
    slots: int = 8
    tensor_parallel: int = 1  # which an engine on several nodes has; it changes nothing here

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[SlottedEngine]:
        yield SlottedEngine(self)

    def on_node(self, node: EngineNode) -> SlottedPart:
        return SlottedPart(self, node)


@dataclass(frozen=True, slots=True)
class SlottedPart:
    """The part of this engine on one of several nodes; those after the first do nothing."""

    options: Slotted
    node: EngineNode

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[SlottedEngine | SlottedPart]:
        yield self if self.node.rank else SlottedEngine(self.options)

    async def wait(self) -> str:
        await asyncio.Event().wait()
        return ""


def relative_time(token: int) -> float:
    """Return how long a request takes, in means; `token` is the first one of the fake engine."""
    return random.Random(token).uniform(0.5, 1.5)


class SlottedEngine:
    def __init__(self, options: Slotted) -> None:
        self._seconds = options.seconds
        self._slots = asyncio.Semaphore(options.slots)
        self._fake = FakeEngine(Fake())

    async def generate(self, request: Request) -> Trace:
        async with self._slots:
            await asyncio.sleep(self._seconds * relative_time(request.seed % 2**31))
            return await self._fake.generate(request)

    def abort(self, request: Request) -> None:
        """Nothing here is aborted."""


registry.engine("slotted")(Slotted)


class Nodes:
    """The nodes of a cluster; its head has no processors, so replicas run on the others."""

    def __init__(self, n_workers: int, n_cpus: int = 1) -> None:
        from ray.cluster_utils import Cluster

        options = {
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_system_config": HEALTH,
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=options)
        self._hung: list[psutil.Process] = []
        self._woken: list[psutil.Process] = []
        self.workers: list[Any] = []
        for _ in range(n_workers):
            self.add(n_cpus)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, n_cpus: int = 1) -> None:
        """Start a node; return before it has joined."""
        for n_left in reversed(range(5)):
            try:
                node = self._cluster.add_node(
                    wait=False, num_cpus=n_cpus, object_store_memory=STORE_BYTES
                )
            # Ray gives a node 30 s and raises Exception itself; a busy machine needs another try
            except Exception as error:
                if not n_left:
                    raise
                print(f"a node did not start: {error}", file=sys.stderr)
            else:
                self.workers.append(node)
                return

    def kill(self, number: int) -> None:
        """End all processes of a node at once, its replicas included."""
        send(_family(self.workers.pop(number)), signal.SIGKILL)

    def hang(self, number: int) -> None:
        """Stop all processes of a node: it neither dies nor answers."""
        family = _family(self.workers.pop(number))
        send(family, signal.SIGSTOP)
        self._hung += family

    def serving(self) -> list[int]:
        """Return the numbers of the nodes that have a replica, or a part of one."""
        return [i for i, node in enumerate(self.workers) if any(map(_is_replica, _family(node)))]

    def wake(self) -> None:
        """Continue all processes of the nodes that were stopped."""
        hung, self._hung = self._hung, []
        send(hung, signal.SIGCONT)
        self._woken += hung

    def kill_head(self) -> None:
        send(_family(self._cluster.head_node), signal.SIGKILL)

    def close(self) -> None:
        for node in [*self.workers, self._cluster.head_node]:
            send(_family(node), signal.SIGKILL)
        send([*self._hung, *self._woken], signal.SIGKILL)


def _family(node: Any) -> list[psutil.Process]:
    found = []
    for info in (one for several in node.all_processes.values() for one in several):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(info.process.pid)
            found += [process, *process.children(recursive=True)]
    return found


def _is_replica(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).startswith(("ray::Replica", "ray::Follower"))
    return False


def send(processes: Sequence[psutil.Process], number: int) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


@contextlib.contextmanager
def nodes(n_workers: int, n_cpus: int = 1) -> Iterator[Nodes]:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    os.environ.update(RAY_gcs_server_port_wait_time_s="180")  # on a busy machine 20 are too few
    started = Nodes(n_workers, n_cpus)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def autoscaled(most: int) -> Iterator[str]:
    """Yield the address of a cluster of a head alone, whose autoscaler starts up to `most` nodes.

    The nodes are processes of this machine, too (Ray's provider `fake_multinode`).
    """
    node = {"resources": {"CPU": 1, "object_store_memory": STORE_BYTES}, "max_workers": most}
    config: dict[str, object] = {
        "cluster_name": "fleet",
        "max_workers": most,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"node_config": {}, "min_workers": 0, **node},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "file_mounts_sync_continuously": False,
    }
    config |= {key: {} for key in ("auth", "docker", "file_mounts")}
    lists = ("initialization", "setup", "head_setup", "worker_setup")
    lists += ("head_start_ray", "worker_start_ray")
    config |= {f"{name}_commands": [] for name in lists}
    config |= {"cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": []}
    port = 6379  # to which the provider's nodes connect
    options = (f"--port={port}", "--num-cpus=0", f"--object-store-memory={STORE_BYTES}")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_FAKE_CLUSTER": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_gcs_server_port_wait_time_s": "180"}
    os.environ.update(RAY_AUTH_MODE="disabled")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        ray = (sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block")
        command = [*ray, f"--autoscaling-config={file.name}", "--include-dashboard=false", *options]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
            try:
                wait_for_port(ray_address(), port)
                yield f"{ray_address()}:{port}"
            finally:
                family = psutil.Process(process.pid).children(recursive=True)
                send([*family, psutil.Process(process.pid)], signal.SIGKILL)


def ray_address() -> str:
    """Return the address under which Ray's nodes know this machine."""
    import ray

    return str(ray.util.get_node_ip_address())


def wait_for_port(host: str, port: int) -> None:
    """Return when something listens there."""
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 1).close()
            return
        time.sleep(0.5)


class Driver:
    """The process that runs a job, and what it has printed."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def is_over(self) -> bool:
        return not self._reader.is_alive()

    @property
    def n_traces(self) -> int:
        """How many traces have arrived, as it last printed."""
        return max([int(line) for line in self.lines if line.strip().isdigit()], default=0)

    def wait_for_line(self) -> None:
        """Return when it has printed another line, which it does once in a while, or is over."""
        n = len(self.lines)
        while len(self.lines) == n and not self.is_over:
            time.sleep(0.1)

    def outcome(self) -> dict[str, Any]:
        """Return what it prints last."""
        self._reader.join()
        try:
            return dict(json.loads(self.lines[-1]))
        except (ValueError, IndexError):
            sys.exit(f"the driver ended with {self.process.wait()}: {''.join(self.lines)}")
