"""Runs all cases of layer schedules and loops and prints, as JSON, what they gave.

`python latent_program.py FOLDER`; the folder gets the models.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRITON_F32_DEFAULT": "ieee",  # on a GPU Triton otherwise multiplies float32 in TF32
}
sys.path.insert(0, str(Path(__file__).parents[2] / "engines" / "vllm" / "latent"))

import builder_cases
import draft_cases
import loop_cases
import noise_cases
import schedule_cases
import slot_cases
import span_cases
import torch
import warm_cases

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    found = {
        "schedules": schedule_cases.results(folder / "schedules"),
        "builders": builder_cases.results(folder / "builders"),
        "drafts": draft_cases.results(),
        "spans": span_cases.results(folder / "spans"),
        "loops": loop_cases.results(folder / "loops"),
        "noise": noise_cases.results(folder / "noise"),
        "slots": slot_cases.results(folder / "slots"),
        "warm": warm_cases.results(folder / "warm"),
    }
    (folder / "results.json").write_text(json.dumps(found))
