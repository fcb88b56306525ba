"""`leadline solve` beside a running server of its plan: the model is loaded once, by the server.

What a command works is counted in seconds of CPU time, of which a busy machine gives it as many.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from processes import Programs, kill_tree

PLAN = """
model = "smollm2"
domain = "text"
strategy = { name = "consistency", n = 2 }
sampling = { max_new_tokens = 8 }
execution = { window = 4, engine = { name = "vllm", kv_cache_gib = 1, enforce_eager = true } }
"""
# a command that may find servers, and the CPU time of it and of the processes that it started
PROGRAM = """
import os, resource, subprocess, sys
os.environ["LEADLINE_SERVER"] = ""
code = subprocess.call([sys.executable, "-m", "orchestrator", *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"CPU seconds: {used.ru_utime + used.ru_stime}")
sys.exit(code)
"""

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def prepare(programs: Programs, folder: Path) -> dict[str, str]:
    """Return what `solve` printed: with engines of its own, and twice beside a server."""
    plan = folder / "plan.toml"
    plan.write_text(PLAN)

    def solve(name: str, *flags: str) -> str:
        log = folder / name
        command = ("solve", "Name a colour.", "--plan", plan, *flags)
        programs.run("-c", PROGRAM, *command, log=log)
        return log.read_text()

    printed = {"own": solve("own")}
    log = folder / "server"
    server = programs.start("-m", "orchestrator", "serve", plan, "--port", 0, log=log)
    while "serving " not in log.read_text():
        assert server.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    printed |= {"found": solve("found"), "again": solve("again")}
    kill_tree(server)
    return printed


def test_a_second_solve_works_a_fraction_of_the_first(prepared: dict[str, str]) -> None:
    """It starts no engine: less than a third of the CPU time, and it names the server."""
    uses = "using the engines of the server at "
    assert {name: uses in text for name, text in prepared.items()} == {
        "own": False,
        "found": True,
        "again": True,
    }
    seconds = {
        name: float(re.findall(r"CPU seconds: ([\d.]+)", text)[0])
        for name, text in prepared.items()
    }
    assert max(seconds["found"], seconds["again"]) < seconds["own"] / 3
