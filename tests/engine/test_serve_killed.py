"""Kill -9 of a real server (vLLM, SmolLM2) in the middle of a batch, then the same command again.

What `tests/serve/test_killed.py` shows on the fake engine: every row has one line of output, about
its own word, and nothing that was journalled is generated again. LEADLINE_REAL_KILLS sets how many
servers are killed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from processes import WORDS, Programs, journalled, kill_tree, mentions

N_TRACES = 2
N_KILLS = int(os.environ.get("LEADLINE_REAL_KILLS", "1"))
CHAT: Any = "/v1/chat/completions"
PLAN = f"""
model = "smollm2"
domain = "text"
strategy = {{ name = "consistency", n = {N_TRACES} }}
sampling = {{ max_new_tokens = 60, temperature = 0.7 }}
execution = {{ window = 4, engine = {{ name = "vllm", kv_cache_gib = 1, enforce_eager = true }} }}
"""

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass(frozen=True, slots=True)
class Batch:
    """An ended batch: its lines by row, and its journal's traces."""

    lines: list[dict[str, Any]]
    traces: dict[tuple[str, int], bytes]


def start(programs: Programs, folder: Path) -> tuple[subprocess.Popen[bytes], openai.OpenAI]:
    """Return a server that is up, and a client of it."""
    log = folder / f"log{time.monotonic_ns()}"
    arguments = (folder / "plan.toml", "--data", folder / "data", "--port", 0)
    process = programs.start("-m", "orchestrator", "serve", *arguments, log=log)
    while (found := re.search(r"serving.*?(http\S+/v1)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    return process, openai.OpenAI(base_url=found[1], api_key="none", timeout=60)


def prepare(programs: Programs, folder: Path) -> Batch:
    """Return a batch whose servers were killed, one after another, until the last one ended it."""
    (folder / "plan.toml").write_text(PLAN)
    process, client = start(programs, folder)
    id = created(client, folder)
    directory = folder / "data" / "batches" / id
    after: dict[tuple[str, int], bytes] = {}
    for _ in range(N_KILLS):
        n_before = len(journalled(directory))
        while len(journalled(directory)) < n_before + 5:
            assert process.poll() is None
            time.sleep(0.2)
        client.close()
        tree = kill_tree(process)
        _, alive = psutil.wait_procs(tree, timeout=30)
        assert not alive, f"left behind: {alive}"
        before = journalled(directory)
        process, client = start(programs, folder)
        after = journalled(directory)
        assert {key: after[key] for key in before} == before
    while (batch := client.batches.retrieve(id)).status not in ("completed", "failed"):
        time.sleep(0.2)
    assert batch.output_file_id is not None, batch
    lines = client.files.content(batch.output_file_id).text.splitlines()
    traces = journalled(directory)
    assert {key: traces[key] for key in after} == after
    client.close()
    kill_tree(process)
    return Batch([json.loads(line) for line in lines], traces)


def created(client: openai.OpenAI, folder: Path) -> str:
    """Begin a batch with a row for each word, and return its id."""
    rows = [
        {
            "custom_id": f"w-{word}",
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": "smollm2",
                "messages": [
                    {"role": "user", "content": f"Write two sentences about the word {word}."}
                ],
            },
        }
        for word in WORDS
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    window: Any = {"endpoint": CHAT, "completion_window": "24h"}
    return client.batches.create(input_file_id=file.id, **window).id


def test_kills_of_a_server_lose_no_row_of_its_batch(prepared: Batch) -> None:
    """Every row has one line, its traces once, and they are about its own word."""
    traces = prepared.traces
    assert sorted(traces) == sorted((f"w-{word}", o) for word in WORDS for o in range(N_TRACES))
    assert [line["custom_id"] for line in prepared.lines] == [f"w-{word}" for word in WORDS]
    n_own, n_foreign = mentions(traces)
    assert n_own >= 0.7 * len(traces)
    assert n_foreign <= 0.1 * len(traces) * (len(WORDS) - 1)
