"""Measures the report of a job: its size, how long it takes to open, and to filter.

    python benchmarks/report.py DIR [--traces 10000] [--thinking 0] [--recorded TRACES]

A job of that many traces, eight at a problem, is built in DIR unless it is there, from recorded
texts of a small model (`qwen2.5-1.5b` in TRACES; not part of this repository; default:
$LEADLINE_TRACES, else ../shared/traces). `--thinking N` puts about N characters of other recorded
texts before each as its thinking. The browser is Debian's `chromium`, driven by Playwright.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.core.plan import Plan, fingerprint
from orchestrator.core.values import Answer, PluginSpec, Problem, Trace, Usage
from orchestrator.core.votes import conclude
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived, Concluded, Event, Opened, digest
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution

N = 8  # attempts at a problem
_FILES = ("math500-bestofn-seed0", "math500-bestofn-seed1")
_BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def main() -> None:
    """Build the job if it is not there, write its report, and print what it costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--thinking", type=int, default=0)
    recorded = os.environ.get("LEADLINE_TRACES", "../shared/traces")
    parser.add_argument("--recorded", type=Path, default=Path(recorded))
    options = parser.parse_args()
    job = options.directory / "job"
    if not (job / "journal.db").exists():
        options.directory.mkdir(parents=True, exist_ok=True)
        build(options.directory, recordings(options.recorded), options.traces, options.thinking)
    target = options.directory / "report.html"
    began = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator", "report", str(job), "--out", str(target)]
    subprocess.run(command, check=True)
    print(f"written in {time.perf_counter() - began:.1f} s")
    print(f"size       {target.stat().st_size / 1e6:.2f} MB")
    if browser := shutil.which("chromium"):
        for name, milliseconds in measured(target, browser).items():
            print(f"{name:<10} {milliseconds:.0f} ms")
    else:
        print("chromium is not installed: not opened")


def recordings(folder: Path) -> list[dict[str, Any]]:
    """Return the recorded problems, each with its attempts."""
    names = [folder / "qwen2.5-1.5b" / f"{name}.json.gz" for name in _FILES]
    questions = {
        row["problem"]["id"]: row["problem"]["prompt"]
        for row in _read(folder / "qwen2.5-1.5b" / "math500-7b-pass1.json.gz")
    }
    rows = [row for name in names for row in _read(name)]
    return [{**row, "prompt": questions[row["problem_id"]]} for row in rows]


def _read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        rows: list[dict[str, Any]] = json.load(file)["records"]
        return rows


def build(directory: Path, rows: Sequence[dict[str, Any]], n_traces: int, thinking: int) -> None:
    """Write a finished job of recorded attempts at recorded problems, each problem repeated."""
    n_problems = n_traces // N
    path = directory / "problems.jsonl"
    with path.open("w") as file:
        for i in range(n_problems):
            row = rows[i % len(rows)]
            level = row["difficulty"].removeprefix("level-")
            fields = {"prompt": row["prompt"], "answer": row["gold"], "level": level}
            file.write(json.dumps({"id": f"{row['problem_id']}-{i}", **fields}) + "\n")
    plan = Plan(strategy=PluginSpec("consistency", {"n": N}), domain="math")
    problems = read_problems(path, default_domain=plan.domain).problems
    texts = [trace["text"] for row in rows for trace in row["traces"]]
    with open_job(directory / "job", plan, problems) as job:
        write_source(job, plan, Execution(engine=PluginSpec("fake")), job_source(path, 0, "auto"))
        for i, problem in enumerate(problems):
            attempts = rows[i % len(rows)]["traces"][:N]
            job.journal.append(list(events(problem, i, attempts, plan, texts, thinking)))


def events(
    problem: Problem,
    number: int,
    attempts: Sequence[dict[str, Any]],
    plan: Plan,
    texts: Sequence[str],
    thinking: int,
) -> Iterator[Event]:
    """Yield what the journal of one problem contains."""
    rng = random.Random(number)
    yield Opened(problem.id, digest(problem), fingerprint(plan))
    pool = []
    for ordinal, attempt in enumerate(attempts):
        thought = "\n".join(rng.sample(texts, 1 + thinking // 1400))[:thinking] if thinking else ""
        text = f"<think>{thought}</think>{attempt['text']}" if thought else attempt["text"]
        n_tokens = attempt["tokens"] + len(thought) // 4
        usage = Usage(120, 0, n_tokens, seconds=n_tokens / 60, reasoning_tokens=len(thought) // 4)
        boxes = _BOX.findall(attempt["text"])
        answer = Answer(boxes[-1], " ".join(boxes[-1].split())) if boxes else None
        pool.append(Trace(ordinal, text, usage=usage, answer=answer, model="main"))
    for trace in sorted(pool, key=lambda t: t.usage.output_tokens):
        yield Arrived(problem.id, trace, trace.usage.seconds)
    selector = registry.load("selectors", plan.selector)
    seconds = max(t.usage.seconds for t in pool)
    mark = fingerprint(plan)
    yield Concluded(
        conclude(problem, pool, selector, n_planned=N, seconds=seconds, fingerprint=mark)
    )


def measured(target: Path, browser: str) -> dict[str, float]:
    """Return the milliseconds that opening, filtering and a problem's page take in a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        page.goto(f"file://{target.resolve()}")
        page.wait_for_selector("[data-ready]")
        opened = 1000 * (time.perf_counter() - began)
        page.goto(f"file://{target.resolve()}#/0/problems")
        page.wait_for_selector("table.problems tbody tr")
        times = {"open": opened}
        times["filter"] = page.evaluate(_FILTER)
        times["problem"] = page.evaluate(_PROBLEM)
        chromium.close()
    return times


_FILTER = """async () => {
  const box = document.querySelector('input[type=search]');
  const before = performance.now();
  box.value = 'triangle';
  box.dispatchEvent(new Event('input', { bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - before;
}"""
_PROBLEM = """async () => {
  const before = performance.now();
  document.querySelector('table.problems tbody tr a').click();
  while (!document.querySelector('.race svg')) {
    await new Promise((done) => requestAnimationFrame(done));
  }
  return performance.now() - before;
}"""


if __name__ == "__main__":
    main()
