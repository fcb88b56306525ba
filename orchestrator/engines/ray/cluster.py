"""Calls to Ray: connect to or start a cluster; place, await and kill actors.

The one rule: no other file imports ray, and this file only when it is needed. Ray is started on a
separate thread that outlives everything started there: `ray.init` blocks for seconds, and the
processes of a local Ray die with the thread that created them (PR_SET_PDEATHSIG). This is why none
of them survives a killed driver. Not covered: pools, requests and traces.
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

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.engines.ray.replica import Follower, Replica

logger = logging.getLogger(__name__)
Resources: TypeAlias = Mapping[str, float]  # Ray's names: "CPU", "GPU"

# object store of a local Ray: it only stores batches in transit; Ray's default is 30 % of the
# memory
STORE_BYTES = 256 * 2**20
CONNECT_SECONDS = 10.0
_NODE_DIED = "its node has died"
MAX_REASON = 600  # characters of Ray's report of a death that are worth showing
# placement group and followers of each actor that is spread over several nodes
_groups: dict[Any, tuple[Any, list[Any]]] = {}


class ReplicaDied(Exception):
    """A call to a replica will not return a result; the message gives the reason."""

    def __init__(self, reason: str, *, node: bool = False) -> None:
        super().__init__(reason)
        self.node = node  # whether its node is lost, too


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[list[Resources]]:
    """Yield the total resources of each living node of a cluster.

    The cluster is the one at `address` or RAY_ADDRESS, or a new local Ray. An existing connection
    of this process is reused. Only clusters started or connected here are shut down. EngineError if
    the cluster does not exist or rejects the connection.
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
        except Exception:  # any failure is raised again; its logs are kept from removal
            logs.clear()
            raise
        finally:
            await asyncio.shield(loop.run_in_executor(thread, _disconnect, ray, logs))


def require_room(pools: Sequence[tuple[str, int, Resources]], nodes: Sequence[Resources]) -> None:
    """Raise EngineError unless all replicas fit on a node; `pools` has name, count and resources.

    Fills the nodes in order, largest replicas first. Resources used by others on the cluster are
    ignored: they may become free.
    """
    free = [dict(node) for node in nodes]
    replicas = [resources for _, count, resources in pools for _ in range(count)]
    for needed in sorted(replicas, key=lambda r: (r.get("GPU", 0), r.get("CPU", 0)), reverse=True):
        node = next(
            (n for n in free if all(n.get(name, 0) >= amount for name, amount in needed.items())),
            None,
        )
        if node is None:
            requested = "; ".join(
                f"{count} of {name!r} with {in_words(resources)} each"
                for name, count, resources in pools
            )
            available = "; ".join(map(in_words, nodes)) or "none"
            raise EngineError(
                f"the cluster has no room for the replicas: requested are {requested}; its nodes "
                f"have {available} in all. Lower replicas, tensor_parallel, gpus_per_replica or "
                "cpus_per_replica, or add nodes"
            )
        for name, amount in needed.items():
            node[name] = node.get(name, 0) - amount


def in_words(resources: Resources, n_nodes: int = 1) -> str:
    """Return the CPUs and GPUs of resources as text, e.g. `2 CPU and 0 GPU`."""
    words = " and ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
    return words if n_nodes == 1 else f"{words} on {n_nodes} nodes"


async def free() -> str:
    """Return the resources of the cluster that are free now, as text."""
    if not await head_answers():  # Ray would wait for it
        return "an unknown number of processors"
    return in_words(await asyncio.to_thread(_ray().available_resources))


def may_grow() -> bool:
    """Return whether nodes may join: not where this process has started Ray by itself."""
    node = _ray()._private.worker._global_node
    return not (node is None or node.head)


def head_address() -> str:
    """Return the address (host:port) of the cluster's head."""
    return str(_ray().get_runtime_context().gcs_address)


async def head_answers() -> bool:
    """Return whether the cluster's head accepts a connection."""
    host, _, port = head_address().rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def new_actor(
    arguments: tuple[Any, ...],
    resources: Resources,
    runtime_env: Mapping[str, object],
    n_nodes: int = 1,
) -> Any:
    """Return a handle to a new `Replica(*arguments)`; it may not have been placed yet.

    On several nodes it is placed when all of them have an equal part of the resources.
    """
    replica, follower = map(_ray().remote, (Replica, Follower))
    options: dict[str, Any] = {
        "num_cpus": resources["CPU"] / n_nodes,
        "num_gpus": resources["GPU"] / n_nodes,
        "max_restarts": 0,  # the fleet restarts it, as only the fleet knows its requests
        "runtime_env": dict(runtime_env) or None,
    }
    if n_nodes == 1:
        return replica.options(**options, scheduling_strategy="SPREAD").remote(*arguments)
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    part = {name: amount / n_nodes for name, amount in resources.items() if amount}
    group = placement_group([part] * n_nodes, strategy="STRICT_SPREAD")
    first, *others = (PlacementGroupSchedulingStrategy(group, i) for i in range(n_nodes))
    actor = replica.options(**options, scheduling_strategy=first).remote(*arguments)
    _groups[actor] = (
        group,
        [
            follower.options(**options, scheduling_strategy=place).remote(*arguments[:3])
            for place in others
        ],
    )
    return actor


async def start(actor: Any) -> str:
    """Open the engine of a placed replica; return "" or why it did not open, or ReplicaDied."""
    if actor not in _groups:
        return str(await result(actor.start.remote()))
    group, followers = _groups[actor]
    addresses = await asyncio.to_thread(_addresses, group)
    return str(await result(actor.start.remote(followers, addresses)))


def _addresses(group: Any) -> list[str]:
    """Return the addresses of the nodes of a placement group that is placed, in its order."""
    ray = _ray()
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    places = ray.util.placement_group_table(group)["bundles_to_node_id"]
    return [nodes[places[i]] for i in sorted(places)]


async def result(call: Awaitable[Any]) -> Any:
    """Return the result of a call to a replica; ReplicaDied if there will be none."""
    errors = _ray().exceptions
    try:
        return await call
    except errors.RayError as error:
        # Of a process that dies on a living node Ray knows at once. It knows of a node when that
        # has missed its heartbeats (ray 2.60: 13 s and more); until then its actors are unavailable
        # (only the text tells that a node is dead: `ActorDeathCause` is not passed on).
        is_node = isinstance(error, errors.ActorUnavailableError) or _NODE_DIED in str(error)
        raise ReplicaDied(_short(str(error)), node=is_node) from error


async def all_of(calls: Sequence[Awaitable[Any]], seconds: float) -> None:
    """Wait until all calls have succeeded or failed, up to the time limit in seconds."""
    tasks = [asyncio.ensure_future(result(call)) for call in calls]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def kill(actor: Any) -> None:
    """End an actor's process, and those of its followers on other nodes.

    Ray first lets it exit by itself, and kills it after five seconds.
    """
    ray = _ray()
    ray.kill(actor, no_restart=True)
    if actor in _groups:
        group, _ = _groups.pop(actor)
        ray.util.remove_placement_group(group)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions  # `import ray` may not load it
    except ImportError as error:
        raise PlanError(
            f"Ray cannot be imported ({error}); install it: pip install 'leadline[cpu]' or "
            "'leadline[cuda]'"
        ) from error
    return ray


def _connect(ray: Any, address: str, logs: list[Path]) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        with _as_engine_error(
            f"Ray at {address!r} cannot be joined",
            "; is the address right (host:port, or auto), and does the cluster run the same "
            "versions of Ray and Python?",
        ):
            _require_listener(ray, address)
            ray.init(address=address, **quiet)
        return
    with _as_engine_error("Ray cannot be started here"):
        context = ray.init(
            "local",
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            **quiet,
        )
    logs.append(Path(context.address_info["session_dir"]))


@contextmanager
def _as_engine_error(failure: str, remedy: str = "") -> Iterator[None]:
    # ray.init raises errors of any type; SystemExit if the head node never answers
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())[:MAX_REASON]
        raise EngineError(f"{failure}: {type(error).__name__}: {reason}{remedy}") from error


def _require_listener(ray: Any, address: str) -> None:
    """Raise OSError unless a process listens at `address`.

    ray.init would need five minutes to fail, with SystemExit.
    """
    if address == "auto":
        address = (
            os.environ.get("RAY_ADDRESS")
            or ray._private.services.find_bootstrap_address(None)
            or ""
        )
        if not address:
            return  # ray.init searches elsewhere, and reports at once if there is none
    if "://" in address:
        raise ValueError(
            "Ray clients are not supported: run on a node of the cluster and give host:port of its "
            "head"
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
    """Set the options that Ray reads only from the environment; restore the variables afterwards.

    A local Ray is protected by a token, which it would write to ~/.ray/auth_token (ray 2.60,
    `authentication_token_setup.py`). The home folder may not be writable, so unless the user has a
    token we create one for this session.
    """
    # A head node waits 30 s for its own port to be published, too short on a busy machine (ray
    # 2.60, `_private/node.py`, `start_gcs_server`).
    # It ends this process 60 s after the head is lost; the fleet needs less to end the job
    # by itself, but a busy machine may be late.
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_server_port_wait_time_s": "180",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "180",
    }
    chosen = any(
        name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    )
    if local and not chosen and not Path("~/.ray/auth_token").expanduser().exists():
        variables["RAY_AUTH_TOKEN"] = _token()
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    # Ray sets the mode itself and leaves it set: a second local Ray in this process would then need
    # a token that it does not get.
    added = [*missing, *(() if "RAY_AUTH_MODE" in os.environ else ("RAY_AUTH_MODE",))]
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@functools.cache
def _token() -> str:
    """Return this process's token, shared by its local Rays: Ray's library reads it only once."""
    return secrets.token_hex(32)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Redirect Ray's messages about dead workers to the log; Ray has no option to disable them.

    ray 2.60, `_private/worker.py`: `listen_error_messages` prints all reports of the raylets, even
    with `log_to_driver=False`.
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


def _short(text: str) -> str:
    """Return Ray's report of a death without its stack traces, field lists and advice."""
    if "error raised in its creation task" in text or "Traceback" in text:
        return text.strip().splitlines()[-1][:MAX_REASON]
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    return re.sub(r" Some common causes include.*", "", " ".join(lines), flags=re.DOTALL)[
        :MAX_REASON
    ]
