"""What becomes of output that the terminal or the file behind it cannot take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def _answers(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "answers", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **settings,
    )


def test_a_full_disk_behind_the_output_is_an_error_in_one_line() -> None:
    """`leadline run ... > log` at the end of a night: the results are safe, and no traceback."""
    with open("/dev/full", "w") as full:
        done = _answers("The answer is 5", stdout=full)
    assert done.returncode == 1
    message = "leadline: the output cannot be written: No space left on device\n"
    assert done.stderr == message


def test_an_output_without_unicode_gets_question_marks_and_json_escapes() -> None:
    """Tables have lines and dots that old terminals lack; JSON must mean the same everywhere."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    text = "The answer is \\boxed{schön 𝄞}"
    settings: dict[str, Any] = {"env": environment, "stdout": subprocess.PIPE}
    table = _answers(text, "--domain", "text", **settings)
    assert "sch?n ?" in table.stdout, table.stderr
    found = _answers(text, "--domain", "text", "--json", **settings).stdout
    assert found.isascii()
    assert "schön 𝄞" in json.dumps(json.loads(found), ensure_ascii=False)
