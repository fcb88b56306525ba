"""Measures what reading a finished job costs: `eval`, `show`, and `run` again, by job size.

    python benchmarks/finished.py DIR [--problems 100000] [--n 10] [--commands eval,run,show]

The job is built in DIR unless it is there. Its traces are written through the journal's own
interface, so that a million of them take minutes, not hours. Every command runs in a process of its
own; printed are its CPU seconds, those of its workers included, and its largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.plan import Plan, fingerprint
from orchestrator.core.values import Answer, PluginSpec, Problem, Trace, Usage
from orchestrator.core.votes import conclude
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived, Concluded, Event, Opened, digest
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution

_BATCH = 1000  # problems in one transaction
_STEP = "Each crate holds the same number of jars, so the next step multiplies the two. "


def main() -> None:
    """Build the job if it is not there, run the commands, and print their costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--commands", default="eval,run,show")
    options = parser.parse_args()
    job = options.directory / "job"
    if not (job / "journal.db").exists():
        options.directory.mkdir(parents=True, exist_ok=True)
        build(options.directory, options.problems, options.n)
    commands = {
        "eval": ["eval", str(job)],
        "run": ["resume", str(job)],
        "show": ["show", str(job), f"q{options.problems // 2}"],
    }
    for name in options.commands.split(","):
        seconds, mebibytes = cost([sys.executable, "-m", "orchestrator", *commands[name]])
        print(f"{name:6} {seconds:8.2f} s CPU {mebibytes:8.0f} MiB", flush=True)


def build(directory: Path, n_problems: int, n: int) -> None:
    """Write a finished job of n attempts at each of n_problems problems."""
    rows = (
        {"id": f"q{i}", "prompt": f"What is {i} + {i % 89}?", "answer": str(i + i % 89)}
        for i in range(n_problems)
    )
    path = directory / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = Plan(strategy=PluginSpec("consistency", {"n": n}), domain="number")
    selector = registry.load("selectors", plan.selector)
    problems = read_problems(path, default_domain=plan.domain).problems
    with open_job(directory / "job", plan, problems) as job:
        write_source(job, plan, Execution(engine=PluginSpec("fake")), job_source(path, 0, "auto"))
        for start in range(0, n_problems, _BATCH):
            batch = enumerate(problems[start : start + _BATCH], start)
            job.journal.append([e for i, p in batch for e in events(p, i, n, plan, selector)])


def events(problem: Problem, number: int, n: int, plan: Plan, selector: object) -> Iterator[Event]:
    """Yield what the journal of one problem contains."""
    rng = random.Random(number)
    right = number + number % 89
    traces = []
    for ordinal in range(n):
        value = str(right if rng.random() < 0.6 else right + rng.randrange(1, 6))
        text = _STEP * rng.randrange(2, 8) + f"The answer is {value}."
        usage = Usage(20, 0, len(text) // 4, 30 * len(text), 0.5)
        traces.append(
            Trace(
                ordinal,
                text,
                tuple(range(len(text) // 4)),
                usage=usage,
                model="main",
                answer=Answer(value, f"={value}"),
            )
        )
    yield Opened(problem.id, digest(problem))
    yield from (Arrived(problem.id, trace, 1.0) for trace in traces)
    yield Concluded(
        conclude(
            problem,
            traces,
            selector,  # type: ignore[arg-type]  # as the registry returns it
            n_planned=n,
            seconds=1.0,
            fingerprint=fingerprint(plan),
        )
    )


def cost(command: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the largest resident MiB of a command that must succeed."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    print(f"{'':6} {time.monotonic() - began:8.2f} s", file=sys.stderr)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
