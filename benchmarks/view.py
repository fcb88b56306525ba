"""Measures `leadline view`: its pages on a job of a million traces, and what it costs a job.

    python benchmarks/view.py pages DIR [--problems 100000] [--n 10]
    python benchmarks/view.py cost [--problems 10000] [--n 10] [--rounds 5]

`pages` builds the job in DIR unless it is there, and prints the time until the first page, until
all was read, and of each kind of request, the first time (no order is kept) and again. `cost` runs
a job of the fake engine with and without a viewer in turns, and prints ratios of the job's time
and CPU; the viewer's page is open at the table: it reads what the events tell it to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import finished

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.job import open_job
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan.execution import Execution
from orchestrator.report.live.index import TEXTS, VALUES
from orchestrator.report.live.query import VIEWS
from orchestrator.runtime import api

_N_SAMPLED = 30  # pages of problems


def main() -> None:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("pages", "cost", "follow"))
    parser.add_argument("place", nargs="?", default="", metavar="DIR")
    parser.add_argument("--problems", type=int)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.part == "pages":
        measure_pages(Path(options.place), options.problems or 100_000, options.n)
    elif options.part == "cost":
        measure_cost(options.problems or 10_000, options.n, options.rounds)
    else:
        follow(options.place)


class Client:
    """What a page does, with one connection a request."""

    def __init__(self, address: str) -> None:
        """Take the address that `leadline view` printed."""
        self._base, _, self._token = address.partition("?")

    def open(self, name: str, **values: object) -> Any:
        """Return a reply."""
        query = urllib.parse.urlencode(values)
        return urllib.request.urlopen(f"{self._base}api/{name}?{self._token}&{query}")

    def get(self, name: str, **values: object) -> Any:
        """Return a value."""
        with self.open(name, **values) as reply:
            return json.load(reply)

    def rows(self, start: int = 0, **query: object) -> Any:
        """Return a page of the table."""
        text = json.dumps({"from": start, "to": start + 60, **query})
        return self.get("problems", job=0, query=text)

    def milliseconds(self, name: str, **values: object) -> float:
        """Return how long a request takes."""
        began = time.perf_counter()
        self.get(name, **values)
        return 1000 * (time.perf_counter() - began)


@contextlib.contextmanager
def viewed(job: Path) -> Iterator[tuple[Client, str]]:
    """Yield a client of `leadline view`, and its address."""
    command = [sys.executable, "-m", "orchestrator", "view", str(job)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            yield Client(address), address
        finally:
            process.terminate()


# --- pages


def measure_pages(place: Path, n_problems: int, n: int) -> None:
    """Print the times of the pages of one job."""
    if not (place / "job" / "journal.db").exists():
        place.mkdir(parents=True, exist_ok=True)
        finished.build(place, n_problems, n)
    began = time.perf_counter()
    with viewed(place / "job") as (client, _):
        print(f"until the first page: {time.perf_counter() - began:.1f} s", flush=True)
        while _n_missing(client):
            time.sleep(1)
        print(f"until all was read: {time.perf_counter() - began:.1f} s", flush=True)
        queries = _queries()
        for name, query in queries.items():
            text = json.dumps({"from": 0, "to": 60, **query})
            deep = json.dumps({"from": 10_000, "to": 10_060, **query})
            first, again = (client.milliseconds("problems", job=0, query=q) for q in (text, deep))
            print(f"{name:40} {first:7.1f} ms, then {again:6.1f} ms", flush=True)
        _measure_problems(client)


def _n_missing(client: Client) -> int:
    index = client.get("index")
    n_open = index["jobs"][0]["overview"]["n_by_outcome"].get("open", 0)
    return int(n_open) or len(index["state"]["warning"])


def _queries() -> dict[str, dict[str, object]]:
    """Return the queries of the table that are measured, by name."""
    sorts = {f"sort {key}": {"sort": key, "descending": True} for key in (*TEXTS, *VALUES)}
    views = {f"view {name}": {"views": [name], "sort": "tokens"} for name in VIEWS}
    return {
        "as in the file": {},
        **sorts,
        **views,
        "outcome wrong": {"outcomes": ["wrong"]},
        "outcome wrong, sort agreement": {"outcomes": ["wrong"], "sort": "agreement"},
        "search '777'": {"text": "777"},
        "search 'nothing has this'": {"text": "nothing has this"},
        "search '77', wrong, sort answer": {"text": "77", "outcomes": ["wrong"], "sort": "answer"},
    }


def _measure_problems(client: Client) -> None:
    n = client.rows()["n"]
    rng = random.Random(0)
    ids = [f"q{rng.randrange(n)}" for _ in range(_N_SAMPLED)]
    query = json.dumps({"sort": "tokens", "descending": True})
    for name, requests in {
        "a problem": [("problem", {"job": 0, "id": id}) for id in ids],
        "its neighbours": [("neighbours", {"job": 0, "id": id, "query": query}) for id in ids],
        "the first page": [("index", {}) for _ in ids],
    }.items():
        times = sorted(client.milliseconds(kind, **values) for kind, values in requests)
        print(f"{name:40} {statistics.median(times):7.1f} ms, the slowest {times[-1]:6.1f} ms")


# --- cost


def measure_cost(n_problems: int, n: int, rounds: int) -> None:
    """Print how much slower a job is with a viewer."""
    ratios: list[tuple[float, float]] = []
    for number in range(rounds):
        turns = [False, True] if number % 2 else [True, False]
        costs = {is_viewed: one_round(n_problems, n, is_viewed=is_viewed) for is_viewed in turns}
        (plain, plain_cpu), (seen, seen_cpu) = costs[False], costs[True]
        ratios.append((seen / plain, seen_cpu / plain_cpu))
        rates = f"{n_problems * n / plain:,.0f} and {n_problems * n / seen:,.0f} traces a second"
        print(f"round {number}: {rates}; CPU {plain_cpu:.2f} and {seen_cpu:.2f} s", flush=True)
    for name, values in zip(("time", "CPU"), zip(*ratios, strict=True), strict=True):
        span = f"{min(values):.3f} to {max(values):.3f}"
        print(f"{name}, with a viewer over without: {statistics.median(values):.3f} ({span})")


def one_round(n_problems: int, n: int, *, is_viewed: bool) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of one job, from its first request to its last."""
    plan = Plan(strategy=PluginSpec("consistency", {"n": n}), domain="number")
    engine = PluginSpec("fake", {"answers": ["12", "8", "7"]})
    execution = Execution(engine=engine, window=256, open_problems=n_problems)

    async def work(directory: Path, stack: contextlib.ExitStack) -> tuple[float, float]:
        path = directory / "problems.jsonl"
        rows = ({"id": f"q{i}", "prompt": f"{i}?", "answer": "12"} for i in range(n_problems))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        problems = read_problems(path, default_domain=plan.domain)
        with open_job(directory / "job", plan, problems.problems, order=problems.order) as job:
            write_source(job, plan, execution, job_source(path, 0, "auto"))
            if is_viewed:
                stack.enter_context(open_page(directory / "job"))
            began, cpu = time.perf_counter(), _cpu()
            n_results = sum([1 async for _ in api.run_job(job, plan, execution)])
            assert n_results == n_problems
            return time.perf_counter() - began, _cpu() - cpu

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        return asyncio.run(work(Path(folder), stack))


@contextlib.contextmanager
def open_page(job: Path) -> Iterator[None]:
    """Serve a job during the block, and read what a page at its table does."""
    with viewed(job) as (_, address):
        command = [sys.executable, __file__, "follow", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as page:
            assert page.stdout is not None
            page.stdout.readline()
            try:
                yield
            finally:
                page.kill()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def follow(address: str) -> None:
    """Read what a page at the table does, for ever.

    With the lowest priority: in use this is a browser, whose own cost is none of the server's.
    """
    os.nice(19)
    client = Client(address)
    with client.open("events") as events:
        print("reading", flush=True)
        for line in events:
            if line.startswith(b"data:"):
                client.get("index")
                client.rows(sort="tokens", descending=True)


if __name__ == "__main__":
    main()
