"""Jobs on several nodes of one machine that are cut off, stopped and set back in time.

    python benchmarks/outages.py vllm [--spread]            # real engines; a node dies, one hangs
    python benchmarks/outages.py wakes [--seconds 60]       # nodes hang, and continue later
    python benchmarks/outages.py cuts [--seconds 60]        # nodes without a network for a while
    python benchmarks/outages.py clocks [--seconds 60]      # clocks that are off, and that jump

Each job is compared with the same one left alone, on a cluster of the same kind: a trace that is
not there is lost, one that is there twice is repeated, and one with other tokens is mispaired.
`cuts` and `clocks` need root (see `hosts.py`).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fleet_job import CLOCK, N_ATTEMPTS, compared, on_ray
from hosts import Hosts, hosts, off_clock
from nodes import Driver, Nodes, nodes
from overhead import tiny_llama

# 3 replicas of 8 slots with 0.25 s for a request: 96 requests a second
RATE, WINDOW = 96, 48
REPLICAS = {"min": 1, "max": 3, "requests": 12}
SHORT_SECONDS, LONG_SECONDS = 1.5, 12.0  # a node is dead for Ray after 3 s, a replica after 5


def n_problems(options: argparse.Namespace) -> int:
    return int(options.seconds * RATE / N_ATTEMPTS)


def vllm(options: argparse.Namespace) -> dict[str, object]:
    """Two vLLM engines on three nodes, or one over two: a node dies and one hangs with work."""
    engine = {"kv_cache_gib": 0.25, "max_num_seqs": 16, "enforce_eager": True, "threads": 1}
    spread = {"nodes_per_replica": 2, "tensor_parallel": 2, "cpus_per_replica": 2}
    execution = partial(
        on_ray,
        replicas=1 if options.spread else 2,
        window=32,
        backend="vllm",
        options=engine,
        heartbeat_seconds=20,
        start_seconds=1200,
        **(spread if options.spread else {}),
    )

    def lose(started: Nodes, job: Driver) -> int:
        losses = (started.kill, started.hang)
        for part, lose_node in enumerate(losses, start=1):
            while job.n_traces < part * options.problems * N_ATTEMPTS / 4 and not job.is_over:
                job.wait_for_line()
            lose_node(started.serving()[0])
            started.add()
        return len(losses)

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_llama(Path(folder))
        return compared(lambda _: nodes(3), execution, options.problems, lose, model)


def wakes(options: argparse.Namespace) -> dict[str, object]:
    """Nodes that hang, and continue when their work has long been given to others."""
    rng = random.Random(options.seed)

    def hang(started: Nodes, job: Driver) -> int:
        n_times = 0
        while not job.is_over:
            job.wait_for_line()
            started.hang(rng.choice(started.serving() or [0]))
            started.add()
            time.sleep(rng.uniform(SHORT_SECONDS, LONG_SECONDS))
            started.wake()
            n_times += 1
        return n_times

    execution = partial(on_ray, replicas=REPLICAS, window=WINDOW)
    return compared(lambda _: nodes(4), execution, n_problems(options), hang)


def cuts(options: argparse.Namespace) -> dict[str, object]:
    """Nodes that lose their network in turns for a moment, and for long enough to be replaced."""
    rng = random.Random(options.seed)

    @contextmanager
    def cluster(_: bool) -> Iterator[Hosts]:
        with hosts() as started:
            for _ in range(4):
                started.add()
            started.alive()
            yield started

    def cut(started: Hosts, job: Driver) -> int:
        n_times = 0
        while not job.is_over:
            job.wait_for_line()
            host, is_long = rng.choice(started.alive()), n_times % 2 == 1
            started.cut(host)
            if is_long:
                started.add()
            time.sleep(LONG_SECONDS if is_long else SHORT_SECONDS)
            started.mend(host)
            time.sleep(options.every)
            n_times += 1
        return n_times

    execution = partial(on_ray, replicas=REPLICAS, window=WINDOW)
    return compared(cluster, execution, n_problems(options), cut)


def clocks(options: argparse.Namespace) -> dict[str, object]:
    """Nodes whose clocks are an hour ahead and behind; the driver's jumps by up to a day."""
    rng, day = random.Random(options.seed), 86_400.0

    @contextmanager
    def cluster(is_disturbed: bool) -> Iterator[Hosts]:
        with hosts() as started:
            for seconds in (3600.0, -3600.0, 0.0):
                started.add(off_clock(seconds) if is_disturbed and seconds else {})
            started.alive()
            yield started

    with tempfile.NamedTemporaryFile("w") as file:
        clock = Path(file.name)
        clock.write_text("0")

        def jump(_: Hosts, job: Driver) -> int:
            n_times = 0
            while not job.is_over:
                job.wait_for_line()
                time.sleep(options.every)
                clock.write_text(f"{rng.uniform(-day, day):.0f}")
                n_times += 1
            return n_times

        execution = partial(on_ray, replicas=REPLICAS, window=WINDOW)
        problems = n_problems(options)
        return compared(cluster, execution, problems, jump, env={CLOCK: file.name})


def main() -> None:
    """Run one of the parts and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    real = parts.add_parser("vllm")
    real.set_defaults(part=vllm)
    real.add_argument("--problems", type=int, default=60)
    real.add_argument("--spread", action="store_true", help="one engine over two nodes")
    for part in (wakes, cuts, clocks):
        fake = parts.add_parser(part.__name__)
        fake.set_defaults(part=part)
        fake.add_argument("--seconds", type=float, default=60.0, help="of the undisturbed job")
        fake.add_argument("--every", type=float, default=5.0, help="seconds between two")
        fake.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(options.part(options)), flush=True)


if __name__ == "__main__":
    main()
