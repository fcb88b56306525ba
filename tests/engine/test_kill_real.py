"""Kill -9 of the whole process tree of a real job (Ray, vLLM, SmolLM2) at two points, then the same
command.

What `tests/test_kill.py` shows at 200 points on the fake engine must hold with real processes:
nothing journalled is generated again, lost, or paired with another problem, and no process stays
behind. `test_every_strategy.py` kills once more, in the middle of every strategy.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

N_TRACES = 4
WORDS = (
    "apple",
    "river",
    "stone",
    "cloud",
    "tiger",
    "piano",
    "lemon",
    "candle",
    "window",
    "garden",
    "rocket",
    "button",
)

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1500)]


def write_job(folder: Path) -> Path:
    rows = [
        {
            "id": f"w-{word}",
            "prompt": f"Write two sentences about the word {word}.",
            "domain": "text",
        }
        for word in WORDS
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "plan.toml").write_text(
        f"""
problems = "problems.jsonl"
model = "smollm2"
strategy = {{ name = "consistency", n = {N_TRACES} }}
sampling = {{ max_new_tokens = 60, temperature = 0.7 }}
fleet = {{ window = 4, engine = {{ name = "ray", options = {{ kv_cache_gib = 1, enforce_eager = true }} }} }}
"""
    )
    return folder / "plan.toml"


def journalled(out: Path) -> dict[tuple[str, int], bytes]:
    if not (out / "journal.db").exists():
        return {}
    with sqlite3.connect(f"file:{out / 'journal.db'}?mode=ro", uri=True) as db:
        try:
            return {
                (p, o): body
                for p, o, body in db.execute(
                    "SELECT problem, ordinal, body FROM events WHERE ordinal IS NOT NULL"
                )
            }
        except sqlite3.OperationalError:
            return {}


def kill_tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Kill a process and all its descendants at once; return them."""
    root = psutil.Process(process.pid)
    tree = [root, *root.children(recursive=True)]
    for one in tree:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    return tree


def test_kills_lose_nothing_and_the_job_ends(tmp_path: Path) -> None:
    plan, out = write_job(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "orchestrator", "run", str(plan), "--out", str(out), "--quiet"]
    log = (tmp_path / "log").open("ab")
    for n_more in (1, 19):  # just begun, and later
        before = journalled(out)
        process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while len(journalled(out)) < len(before) + n_more:
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the job made no progress"
            time.sleep(0.2)
        tree = kill_tree(process)
        after = journalled(out)
        assert {key: after[key] for key in before} == before
        _, alive = psutil.wait_procs(tree, timeout=30)
        assert not alive, f"left behind: {alive}"
    before = journalled(out)
    done = subprocess.run(command, stdout=log, stderr=log, timeout=500, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    after = journalled(out)
    assert {key: after[key] for key in before} == before
    assert sorted(after) == sorted((f"w-{word}", o) for word in WORDS for o in range(N_TRACES))
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"w-{word}" for word in WORDS]
    assert all(row["n_traces"] == N_TRACES and row["n_failed"] == 0 for row in rows)
    # A text about its own word, far more often than about any other: completions are paired with
    # their prompts.
    own = sum(
        word in json.loads(body)["text"].lower()
        for (problem, _), body in after.items()
        for word in WORDS
        if problem == f"w-{word}"
    )
    foreign = sum(
        word in json.loads(body)["text"].lower()
        for (problem, _), body in after.items()
        for word in WORDS
        if problem != f"w-{word}"
    )
    assert own >= 0.7 * len(after)
    assert foreign <= 0.1 * len(after) * (len(WORDS) - 1)
