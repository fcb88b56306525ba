"""All that is said to Ray: connect or start, place an actor, await it, kill it. The only file that
imports ray, and only when needed.

Ray is started and left on a thread of its own that outlives everything started there: the processes
of a local Ray die with the thread that made them (PR_SET_PDEATHSIG), which is how nothing of it
survives a killed driver, and `ray.init` blocks for seconds. What this file does not know: pools,
requests and traces.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.core.errors import EngineError
from orchestrator.engines.ray.replica import Replica

logger = logging.getLogger(__name__)
Resources: TypeAlias = Mapping[str, float]  # Ray's names: "CPU", "GPU"

# object store of a local Ray: it holds batches in passage only; Ray's default is 30 % of the memory
STORE_BYTES = 256 * 2**20
CONNECT_SECONDS = 10.0
MAX_REASON = 600  # characters of Ray's account of a death that are worth showing


class ReplicaDied(Exception):
    """A call to a replica will not be answered; says why."""


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[list[Resources]]:
    """Yield what each living node has in all: of the cluster at `address` or RAY_ADDRESS, or of a
    new local Ray.

    A connection that this process has already is used as it is. Only what was started or connected
    here is shut down. EngineError when there is no such cluster, or it does not accept us.
    """
    ray = _ray()
    if ray.is_initialized():
        yield _nodes(ray)
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    loop = asyncio.get_running_loop()
    logs: list[Path] = []
    with (
        ThreadPoolExecutor(1, thread_name_prefix="ray") as thread,
        _environment(local=not address),
        _quiet(ray),
    ):
        try:
            await loop.run_in_executor(thread, _connect, ray, address, logs)
            yield _nodes(ray)
        except Exception:
            logs.clear()  # what went wrong may be told there
            raise
        finally:
            await asyncio.shield(loop.run_in_executor(thread, _disconnect, ray, logs))


def require_room(pools: Sequence[tuple[str, int, Resources]], nodes: Sequence[Resources]) -> None:
    """Raise EngineError, naming what is asked and what there is, unless all replicas (name, count,
    resources of each) find a node.

    Fills the nodes in order, largest replicas first. What others on the cluster use is not looked
    at: it may become free.
    """
    free = [dict(node) for node in nodes]
    replicas = [resources for _, count, resources in pools for _ in range(count)]
    for asked in sorted(replicas, key=lambda r: (r.get("GPU", 0), r.get("CPU", 0)), reverse=True):
        node = next(
            (n for n in free if all(n.get(name, 0) >= amount for name, amount in asked.items())),
            None,
        )
        if node is None:
            wanted = "; ".join(
                f"{count} of {name!r} with {shown(resources)} each"
                for name, count, resources in pools
            )
            there = "; ".join(map(shown, nodes)) or "none"
            raise EngineError(
                f"the cluster has no room for the replicas: asked for {wanted}; its nodes have {there} in all. "
                "Lower replicas, tensor_parallel, gpus_per_replica or cpus_per_replica, or add nodes"
            )
        for name, amount in asked.items():
            node[name] = node.get(name, 0) - amount


def shown(resources: Resources) -> str:
    """Return the processors among resources as text, e.g. `2 CPU and 0 GPU`."""
    return " and ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


def free() -> str:
    """Return what the cluster has free at this moment, as text."""
    return f"the cluster has {shown(_ray().available_resources())} free"


def new_actor(
    arguments: tuple[Any, ...], resources: Resources, runtime_env: Mapping[str, object]
) -> Any:
    """Return a handle to a new `Replica(*arguments)`; it may not have been placed yet."""
    cls = _ray().remote(Replica)
    return cls.options(
        num_cpus=resources["CPU"],
        num_gpus=resources["GPU"],
        max_restarts=0,  # its fleet restarts it, as only the fleet knows what it held
        scheduling_strategy="SPREAD",
        runtime_env=dict(runtime_env) or None,
    ).remote(*arguments)


async def reply(call: Awaitable[Any]) -> Any:
    """Return the value of a call to a replica; ReplicaDied when it will not come."""
    errors = _ray().exceptions
    try:
        return await call
    except errors.RayError as error:
        raise ReplicaDied(_account(str(error))) from error


async def all_of(calls: Sequence[Awaitable[Any]], seconds: float) -> None:
    """Wait until all calls have been answered or cannot be, at most so long."""
    tasks = [asyncio.ensure_future(reply(call)) for call in calls]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def kill(actor: Any) -> None:
    """End an actor's process.

    Ray first asks it to go; one that does not answer is killed after five seconds, by Ray.
    """
    _ray().kill(actor, no_restart=True)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions  # `ray` alone does not promise to load it
    except ImportError as error:
        raise EngineError(
            f"Ray cannot be imported ({error}); install it: pip install 'leadline[cpu]' or 'leadline[cuda]'"
        ) from error
    return ray


def _connect(ray: Any, address: str, logs: list[Path]) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _require_listener(ray, address)
            ray.init(address=address, **quiet)
            return
        context = ray.init(
            "local",
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            **quiet,
        )
    # ray.init raises what it likes; SystemExit where the head never answers
    except (Exception, SystemExit) as error:
        what = f"Ray at {address!r} cannot be joined" if address else "Ray cannot be started here"
        remedy = (
            "; is the address right (host:port, or auto), and does the cluster run the same versions of Ray and Python?"
            if address
            else ""
        )
        raise EngineError(
            f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:MAX_REASON]}{remedy}"
        ) from error
    logs.append(Path(context.address_info["session_dir"]))


def _require_listener(ray: Any, address: str) -> None:
    """Raise OSError unless something listens at `address`: ray.init takes five minutes to find out,
    and ends in SystemExit.
    """
    if address == "auto":
        address = (
            os.environ.get("RAY_ADDRESS")
            or ray._private.services.find_bootstrap_address(None)
            or ""
        )
        if not address:
            return  # ray.init looks further, and says so at once when there is none
    if "://" in address:
        raise ValueError(
            "Ray clients are not supported: run on a node of the cluster and give host:port of its head"
        )
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _disconnect(ray: Any, logs: Sequence[Path]) -> None:
    ray.shutdown()
    for folder in logs:
        shutil.rmtree(folder, ignore_errors=True)


def _nodes(ray: Any) -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def _environment(local: bool) -> Iterator[None]:
    """Set what Ray reads from the environment only, and put back what was there.

    A local Ray guards itself with a token, which it would write to ~/.ray/auth_token (ray 2.60,
    `authentication_token_setup.py`); the home folder may not be ours to write to, so unless the
    user has a token we give it one for this session.
    """
    # A head waits 30 s for its own port to be published, too short on a machine at work (ray 2.60,
    # `_private/node.py`, `start_gcs_server`).
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_server_port_wait_time_s": "180"}
    chosen = any(
        name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    )
    if local and not chosen and not Path("~/.ray/auth_token").expanduser().exists():
        wanted["RAY_AUTH_TOKEN"] = _token()
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    # Ray sets the mode itself and leaves it set: a second local Ray in this process would ask for a
    # token that nobody gives it.
    left = [*missing, *(() if "RAY_AUTH_MODE" in os.environ else ("RAY_AUTH_MODE",))]
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in left:
            os.environ.pop(name, None)


@functools.cache
def _token() -> str:
    """Return this process's token: one for all its local Rays, because Ray's own library reads it
    once.
    """
    return secrets.token_hex(32)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Send to the log what Ray would print on standard output about dead workers: it has no switch
    for that.

    ray 2.60, `_private/worker.py`: `listen_error_messages` prints whatever the raylets report,
    `log_to_driver=False` or not.
    """
    worker = ray._private.worker
    original = worker.print_to_stdstream

    def log(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        logger.info("ray: %s", " ".join(map(str, data["lines"])))

    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = original


def _account(text: str) -> str:
    """Return Ray's account of a death without its stack traces, field lists and advice."""
    if "error raised in its creation task" in text or "Traceback" in text:
        return text.strip().splitlines()[-1][:MAX_REASON]
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    return re.sub(r" Some common causes include.*", "", " ".join(lines), flags=re.DOTALL)[
        :MAX_REASON
    ]
