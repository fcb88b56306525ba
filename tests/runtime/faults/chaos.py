"""Kills answer workers and whole trees of processes at random, over ten strategies.

    python tests/runtime/faults/chaos.py DIRECTORY [--kills 300] [--seed 7]

Jobs run below DIRECTORY, one after another, each strategy in turn; a job whose tree was killed is
resumed. The program ends with an error when a run hangs, when a journalled trace is lost, changed,
generated again or paired with another problem, when a problem failed, or when an answer was not
read because a worker had been killed. `test_chaos.py` runs a part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import chaos_domain  # noqa: F401 - registers the domain
import psutil
from test_kill import journalled, problem_number, served

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec, Problem, Result, Status
from orchestrator.core.votes import VOTING
from orchestrator.jobs.journal import Journal
from orchestrator.plan.execution import Execution

PROBLEMS = [Problem(f"p{i}", f"Question {i}?", "last-number") for i in range(16)]
PROBES = {"n": 4, "interval": 4, "stable": 2, "probe_tokens": 2}
STRATEGIES = [
    PluginSpec("consistency", {"n": 8}),
    PluginSpec("adaptive", {"n": 8, "wave": 2, "growth": 1.0}),
    PluginSpec("short-m@k", {"m": 4, "k": 8}),
    PluginSpec("dynasor", PROBES),
    PluginSpec("parallel-probe", {**PROBES, "warm_up": 1, "patience": 1}),
    PluginSpec("budget-forcing", {"n": 4, "end": ",", "thinking": 12, "answer": 6}),
    PluginSpec("refine", {"inner": "consistency n=4", "rounds": 1}),
    PluginSpec("revise", {"chains": 3, "revisions": 2}),
    PluginSpec("rsa", {"n": 4, "k": 2, "steps": 3}),
    PluginSpec("ensemble", {"models": ["main", "other"], "n": 6}),
]
MOST_SERVED = 60  # requests between two kills
HANG_SECONDS = 120.0  # without a request served, on however busy a machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng, kills, n_jobs = random.Random(options.seed), Counter[str](), 0
    options.directory.mkdir(parents=True, exist_ok=True)
    while kills.total() < options.kills or n_jobs < len(STRATEGIES):
        strategy = STRATEGIES[n_jobs % len(STRATEGIES)]
        n_jobs += 1
        out = options.directory / f"{n_jobs}-{strategy.name.replace('@', '')}"
        done, least = kills.total(), options.kills * n_jobs // len(STRATEGIES)
        finish(strategy, out, rng, kills, max(0, min(options.kills, least) - done))
        check_end(strategy, out)
    killed = f"{kills['worker']} workers and {kills['tree']} trees killed"
    sys.stdout.write(f"{n_jobs} jobs, {killed}: all whole\n")


def finish(
    strategy: PluginSpec, out: Path, rng: random.Random, kills: Counter[str], n_kills: int
) -> None:
    """Run a job to its end, with at most `n_kills` kills on the way."""
    log, before_all = out.with_suffix(".log"), kills.total()
    while True:
        before, n_before = journalled(out), len(served(log))
        left = n_kills - (kills.total() - before_all)
        ended = run(strategy, out, log, rng, kills, left)
        after = journalled(out)
        assert {k: after[k] for k in before} == before, f"{out}: a journalled trace is lost"
        again = set(served(log)[n_before:]) & before.keys()
        assert not again, f"{out}: generated again although journalled: {again}"
        if ended:
            return


def run(
    strategy: PluginSpec,
    out: Path,
    log: Path,
    rng: random.Random,
    kills: Counter[str],
    n_kills: int,
) -> bool:
    """Run a job in a process, kill parts of it at random, and return whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_job(strategy, out, log)
            code = 0
        finally:
            os._exit(code)
    point = rng.randrange(MOST_SERVED) + len(served(log))
    n_seen, seen_at = -1, time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, f"{out}: the run ended with {status}"
            return True
        n_served = len(served(log))
        if n_served > n_seen:
            n_seen, seen_at = n_served, time.monotonic()
        if time.monotonic() - seen_at > HANG_SECONDS:
            kill_all(child)
            raise AssertionError(f"{out}: nothing was served for {HANG_SECONDS:g} s")
        if n_kills > 0 and n_served >= point:
            point = n_served + rng.randrange(MOST_SERVED)
            n_kills -= 1
            if rng.random() < 0.65 and kill_worker(child, rng):
                kills["worker"] += 1
            else:
                kill_all(child)
                kills["tree"] += 1
                return False
        time.sleep(0.002)


def run_job(strategy: PluginSpec, out: Path, log: Path) -> None:
    plan = Plan(
        models={"main": Model("smollm2"), "other": Model("smollm2")}
        if "models" in strategy.options
        else {"main": Model("smollm2")},
        strategy=strategy,
    )
    engine = PluginSpec("recording", {"log": str(log)})
    orchestrator.run(PROBLEMS, plan, Execution(engine=engine, window=16), out=out)


def kill_worker(child: int, rng: random.Random) -> bool:
    """Kill one of the worker processes, if there is one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = sorted(psutil.Process(child).children(), key=lambda process: process.pid)
        if workers:
            rng.choice(workers).kill()
            return True
    return False


def kill_all(child: int) -> None:
    """Kill a process and its descendants, in the order of a sudden end: the parent first."""
    tree = [psutil.Process(child), *psutil.Process(child).children(recursive=True)]
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os.waitpid(child, 0)
    psutil.wait_procs(tree[1:], timeout=HANG_SECONDS)


def check_end(strategy: PluginSpec, out: Path) -> None:
    """Check the results of a finished job."""
    with Journal.for_reading(out / "journal.db") as journal:
        results = {r.problem_id: r for r in journal.results()}
        assert sorted(results) == sorted(p.id for p in PROBLEMS)
        for id, result in results.items():
            assert result.status is not Status.FAILED, (out, id, result.error)
            traces = [t for t in journal.traces(id) if t.purpose in VOTING and not t.lost]
            unread = [t for t in traces if t.answer is None and re.search(r"\d", t.reply)]
            assert not unread, (out, id, unread)
            answers = {t.answer.text for t in traces if t.answer is not None}
            assert answers <= {problem_number(id), "5000"}, (out, id, answers)
        assert journal.notes() == (0, ""), (out, journal.notes())
    if strategy.name == "consistency":  # whose votes do not depend on the order of arrival
        assert {i: _votes(r) for i, r in results.items()} == uninterrupted(strategy, out)


def uninterrupted(strategy: PluginSpec, out: Path) -> dict[str, object]:
    whole = out.with_name("whole")
    run_job(strategy, whole, whole.with_suffix(".log"))
    with Journal.for_reading(whole / "journal.db") as journal:
        return {r.problem_id: _votes(r) for r in journal.results()}


def _votes(result: Result) -> object:
    return result.answer, result.clusters, result.n_traces


if __name__ == "__main__":
    main()
