"""No request that the service's OpenAPI document allows, or nearly allows, is an error inside.

Schemathesis, in the environment of `make clients`, makes the requests. LEADLINE_EXAMPLES sets how
many it makes of each operation.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from counting_service import MODELS, served

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LEADLINE_CLIENTS", ROOT / ".venv-clients" / "bin" / "python"))
N_EXAMPLES = os.environ.get("LEADLINE_EXAMPLES", "20")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_schemathesis_finds_no_server_error(tmp_path: Path) -> None:
    program = PYTHON.with_name("schemathesis")
    if not program.is_file():
        pytest.skip("schemathesis is not installed: `make clients` installs it")
    plan = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 2}))
    with served(plan, str(tmp_path), answers=("7",), data=tmp_path / "data") as service:
        command = [program, "run", f"{service.root}/openapi.json", "--checks=not_a_server_error"]
        command += ["--phases=fuzzing", "--continue-on-failure", "--no-color", "--seed=11"]
        command += [f"--max-examples={N_EXAMPLES}", "--generation-database=none"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))}
        done = subprocess.run(command, cwd=tmp_path, env=inherited, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    [n] = re.findall(r"([\d,]+) generated", done.stdout)
    assert int(n.replace(",", "")) > 5 * int(N_EXAMPLES)
