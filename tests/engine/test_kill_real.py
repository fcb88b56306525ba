"""Kill -9 of a whole real job (Ray, vLLM, SmolLM2) at two points, then the same command again.

What `tests/chaos` shows on the fake engine, at any moment, must hold with real
processes: nothing journalled is generated again, lost, or paired with another problem, and no
process stays behind. `test_every_strategy.py` kills once more, in the middle of every strategy.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest
from processes import WORDS, Programs, journalled, kill_tree, mentions

N_TRACES = 4
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
[execution]
window = 4
[execution.engine]
name = "ray"
options = {{ kv_cache_gib = 1, enforce_eager = true }}
"""
    )
    return folder / "plan.toml"


def prepare(programs: Programs, folder: Path) -> Path:
    """Return the directory of a job that was killed twice and then ran to its end.

    Nothing that was journalled before a kill, or a restart, has changed after it.
    """
    plan, out, log = write_job(folder), folder / "out", folder / "log"
    command = ("-m", "orchestrator", "run", plan, "--out", out, "--quiet")
    for n_more in (1, 19):  # just begun, and later
        before = journalled(out)
        process = programs.start(*command, log=log)
        while len(journalled(out)) < len(before) + n_more:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        tree = kill_tree(process)
        after = journalled(out)
        assert {key: after[key] for key in before} == before
        _, alive = psutil.wait_procs(tree, timeout=30)
        assert not alive, f"left behind: {alive}"
    before = journalled(out)
    programs.run(*command, log=log)
    after = journalled(out)
    assert {key: after[key] for key in before} == before
    return out


def test_kills_lose_nothing_and_the_job_ends(prepared: Path) -> None:
    """Every problem has its traces once, and they are about its own word."""
    traces = journalled(prepared)
    assert sorted(traces) == sorted((f"w-{word}", o) for word in WORDS for o in range(N_TRACES))
    rows = [json.loads(line) for line in (prepared / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"w-{word}" for word in WORDS]
    assert all(row["n_traces"] == N_TRACES and row["n_failed"] == 0 for row in rows)
    n_own, n_foreign = mentions(traces)
    assert n_own >= 0.7 * len(traces)
    assert n_foreign <= 0.1 * len(traces) * (len(WORDS) - 1)
