"""Fleets of fake replicas on a Ray cluster of several nodes, all on this machine.

    python benchmarks/fleet.py elastic [--autoscaler]      # a fleet grows and shrinks
    python benchmarks/fleet.py short                       # one node too few, until it joins
    python benchmarks/fleet.py kills [--seconds 90] [--every 8] [--seed 0] [--hang]
    python benchmarks/fleet.py head                        # the head dies; the job is resumed
    python benchmarks/fleet.py spread [--seconds 30]       # a replica over two nodes, which die
    python benchmarks/fleet.py size [--replicas 1,2,4,8]   # efficiency by number of replicas

The engine of a replica serves `slots` requests at a time, each for a time drawn by its seed. A job
is compared, trace by trace, with the same job on the engine `fake`: a trace that is not there is
lost, one that is there twice is repeated, and one with another seed is mispaired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fleet_job import N_ATTEMPTS, compared, driver, faults, on_ray, traces_in, traces_of_fake
from nodes import Driver, Nodes, autoscaled, nodes, relative_time

from orchestrator.core.plan import Model
from orchestrator.core.values import Request
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution


@asynccontextmanager
async def fleet_of(execution: Execution) -> AsyncIterator[Any]:
    factory = registry.load("engines", execution.engine)
    async with factory.open({"main": Model("none")}) as fleet:
        yield fleet


async def n_mispaired(fleet: Any, n: int) -> int:
    """Send n requests, 64 at a time; return how many have the trace of another."""
    gate = asyncio.Semaphore(64)

    async def is_wrong(seed: int) -> bool:
        request = Request("?", problem_id=f"p{seed // 16}", ordinal=seed % 16, seed=seed)
        async with gate:
            trace = await fleet.generate(request)
        return bool(trace.token_ids[0] != seed)

    return sum(await asyncio.gather(*map(is_wrong, range(n))))


def n_up(fleet: Any) -> int:
    return sum(replica.state == "up" for replica in fleet.stats())


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  # nothing in this process would set an event
        await asyncio.sleep(0.1)


def elastic(options: argparse.Namespace) -> dict[str, object]:
    """A burst, then nothing: the numbers of replicas that are up, in order."""
    replicas = {"min": 1, "max": 3, "requests": 16, "up_seconds": 1, "idle_seconds": 3}
    seen: list[tuple[int, float]] = []

    async def work(address: str) -> dict[str, object]:
        async with fleet_of(on_ray(address, replicas, 64)) as fleet:
            began = time.perf_counter()

            def note() -> bool:
                if not seen or seen[-1][0] != n_up(fleet):
                    seen.append((n_up(fleet), round(time.perf_counter() - began, 1)))
                return len(seen) > 1 and seen[-1][0] == 1

            watching = asyncio.create_task(until(note))
            wrong = await n_mispaired(fleet, options.requests)
            await watching
            up, at = zip(*seen, strict=True)
            return {"up": up, "at": at, "traces": options.requests, "mispaired": wrong}

    if options.autoscaler:
        with autoscaled(3) as address:
            return asyncio.run(work(address))
    with nodes(3) as started:
        return asyncio.run(work(started.address))


def short(_: argparse.Namespace) -> dict[str, object]:
    """Three replicas on two nodes, and a third node that joins."""

    async def work(started: Nodes) -> dict[str, object]:
        async with fleet_of(on_ray(started.address, 3, 64, heartbeat_seconds=60)) as fleet:
            await until(lambda: bool(fleet.notices()))
            without, [notice] = n_up(fleet), fleet.notices()
            wrong = await n_mispaired(fleet, 100)
            started.add()  # Ray wants the main thread; replicas may wait for so long
            await until(lambda: n_up(fleet) == 3 and not fleet.notices())
            return {
                "notice": notice,
                "up_without": without,
                "up_with": n_up(fleet),
                "mispaired": wrong,
                "seconds": round(fleet.unplaced()[0], 1),
            }

    with nodes(2) as started:
        return asyncio.run(work(started))


def kills(options: argparse.Namespace) -> dict[str, object]:
    """A job on nodes that die at random, against the same job on nodes that do not."""
    rng = random.Random(options.seed)

    def lose(started: Nodes, job: Driver) -> int:
        n_lost = 0
        while not job.is_over:
            time.sleep(rng.uniform(0.5, 1.5) * options.every)
            job.wait_for_line()  # on a busy machine nodes need longer to start
            hangs = options.hang and rng.random() < 0.3
            number = rng.randrange(len(started.workers))
            (started.hang if hangs else started.kill)(number)
            started.add()
            n_lost += 1
        return n_lost

    # 3 replicas of 8 slots with 0.25 s for a request: 96 requests a second
    n_problems = int(options.seconds * 96 / N_ATTEMPTS)
    execution = partial(on_ray, replicas={"min": 1, "max": 3, "requests": 12}, window=48)
    return compared(lambda _: nodes(options.nodes), execution, n_problems, lose)


def spread(options: argparse.Namespace) -> dict[str, object]:
    """One replica over two of three nodes, of which one dies now and then."""
    rng, n_parts = random.Random(options.seed), set[int]()

    def lose(started: Nodes, job: Driver) -> int:
        n_lost = 0
        while not job.is_over:
            time.sleep(options.every)
            job.wait_for_line()
            if not job.is_over and len(serving := started.serving()) > 1:
                n_parts.add(len(serving))
                started.kill(rng.choice(serving))
                started.add()
                n_lost += 1
        return n_lost

    # 8 slots with 0.25 s for a request: 32 requests a second
    n_problems = int(options.seconds * 32 / N_ATTEMPTS)
    execution = partial(
        on_ray, replicas=1, window=16, nodes_per_replica=2, tensor_parallel=2, cpus_per_replica=2
    )
    found = compared(lambda _: nodes(3), execution, n_problems, lose)
    return {**found, "nodes_of_a_replica": sorted(n_parts)}


def head_dies(_: argparse.Namespace) -> dict[str, object]:
    """A job whose cluster loses its head, and the same command on a new cluster."""
    n_problems = 100
    with tempfile.TemporaryDirectory() as folder:
        with nodes(2) as started:
            execution = on_ray(started.address, 2, 32)
            with driver(Path(folder), n_problems, execution, LOST_SECONDS=8.0) as job:
                job.wait_for_line()
                started.kill_head()
                began = time.perf_counter()
                reason = job.outcome().get("error", "")
                job.process.wait()
                ended = time.perf_counter() - began
        n_before = len(traces_in(Path(folder), n_problems))
        with nodes(2) as started:
            execution = on_ray(started.address, 2, 32)
            with driver(Path(folder), n_problems, execution) as job:
                job.outcome()
        counts = faults(traces_in(Path(folder), n_problems), traces_of_fake(n_problems))
    return {**counts, "before": n_before, "reason": reason, "ended_after": round(ended, 1)}


def size(options: argparse.Namespace) -> dict[str, object]:
    """The share of the replicas' slots that were busy, by number of replicas."""
    table = {}
    for n in map(int, options.replicas.split(",")):
        # twice as many in flight as there are slots, so that no slot waits for the driver alone
        n_slots = n * options.slots
        n_problems = max(20, round(options.seconds / options.service * n_slots / N_ATTEMPTS))
        engine = {"seconds": options.service, "slots": options.slots}
        with nodes(1, n) as started, tempfile.TemporaryDirectory() as folder:
            execution = on_ray(
                started.address,
                n,
                2 * n_slots,
                options=engine,
                linger_seconds=options.linger,
                heartbeat_seconds=60,
            )
            with driver(Path(folder), n_problems, execution) as job:
                found = job.outcome()
        arrivals = found["arrivals"]
        # of the middle, so that neither start nor end counts
        first, last = len(arrivals) // 5, len(arrivals) * 4 // 5
        seconds = arrivals[last][0] - arrivals[first][0]
        work = sum(relative_time(token) for _, token in arrivals[first + 1 : last + 1])
        table[n] = {
            "requests_per_second": round((last - first) / seconds, 1),
            "efficiency": round(work * options.service / seconds / n_slots, 3),
            "driver_cpus": round(found["cpu_seconds"] / arrivals[-1][0], 2),
        }
        print(n, json.dumps(table[n]), flush=True)
    return {"replicas": table}


def main() -> None:
    """Run one of the parts and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    growing = parts.add_parser("elastic")
    growing.set_defaults(part=elastic)
    growing.add_argument("--requests", type=int, default=900)
    growing.add_argument("--autoscaler", action="store_true", help="which starts the nodes")
    parts.add_parser("short").set_defaults(part=short)
    killing = parts.add_parser("kills")
    killing.set_defaults(part=kills)
    killing.add_argument("--seconds", type=float, default=90.0, help="of the undisturbed job")
    killing.add_argument("--every", type=float, default=8.0, help="seconds between two losses")
    killing.add_argument("--nodes", type=int, default=4)
    killing.add_argument("--seed", type=int, default=0)
    killing.add_argument("--hang", action="store_true", help="three of ten hang instead of dying")
    parts.add_parser("head").set_defaults(part=head_dies)
    spreading = parts.add_parser("spread")
    spreading.set_defaults(part=spread)
    spreading.add_argument("--seconds", type=float, default=30.0, help="of the undisturbed job")
    spreading.add_argument("--every", type=float, default=8.0, help="seconds between two losses")
    spreading.add_argument("--seed", type=int, default=0)
    sizing = parts.add_parser("size")
    sizing.set_defaults(part=size)
    sizing.add_argument("--replicas", default="1,2,4,8")
    sizing.add_argument("--slots", type=int, default=8)
    sizing.add_argument("--service", type=float, default=1.0, help="seconds of a request")
    sizing.add_argument("--seconds", type=float, default=20.0, help="of each job")
    sizing.add_argument("--linger", type=float, default=0.003)
    options = parser.parse_args()
    print(json.dumps(options.part(options)), flush=True)


if __name__ == "__main__":
    main()
