"""Exits of the shipped looped model in a real engine, calibrated by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import loop_references as references
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from orchestrator.api.traces import traces
from orchestrator.core.layers import parse_schedule
from orchestrator.plan.models import resolve_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "sounder.toml"
N, DEPTH, THRESHOLD = 12, 8, 0.6


def test_a_threshold_is_calibrated_in_a_real_engine(tmp_path: Path) -> None:
    """Greedy, 12 problems: no answer differs at 0.6, as benchmarks/exits.py finds; and the depth of
    each token in the journal is that of the reference in plain PyTorch.
    """
    out = tmp_path / "exits"
    command = [
        *(sys.executable, "-m", "orchestrator", "depth", "calibrate", str(EXAMPLE), "--json"),
        *("--loss", "0.3", "--thresholds", str(THRESHOLD), "--limit", str(N)),
        *("--sampling.temperature", "0", "--execution.engine", "vllm", "--out", str(out)),
        *("--execution.engine.kv_cache_gib", "0.25"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [level] = found["levels"]
    assert level["loss"]["value"] == 0
    assert found["rule"] == "state<0.6"
    assert 1 < level["mean_depth"] < DEPTH / 2
    assert level["layer_tokens"] < found["full_layer_tokens"] / 2
    assert_depths(out / f"state-{THRESHOLD:g}")


def assert_depths(job: Path) -> None:
    """Each attempt of a job has the tokens and depths of the reference."""
    folder = Path(resolve_model("sounder"))
    config = json.loads((folder / "config.json").read_text())
    schedule = parse_schedule(config["latent"]["layers"])
    model = references.Llama(
        config,
        load_file(folder / "model.safetensors"),
        *(schedule.head, schedule.think, schedule.tail),
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = map(json.loads, (EXAMPLE.parent / "sounder.jsonl").read_text().splitlines()[:N])
    for row in rows:
        [trace] = traces(job, row["id"])
        prompt = tokenizer.encode(row["prompt"]).ids
        with torch.inference_mode():
            ids, taken = references.generate_under(
                model, prompt, len(trace.token_ids), ("state", THRESHOLD, 1), DEPTH
            )
        assert list(trace.token_ids) == ids
        assert list(trace.depths) == taken[len(prompt) - 1 :]
