"""What a model, a file or a server wrote never reaches the terminal as a command to it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.text import Text

from orchestrator.cli.console import Screen, message, print_json
from orchestrator.cli.main import leadline

TITLE, CLEAR, C1 = "\x1b]0;owned\x07", "\x1b[2J", "\x9b2J\x9d0;owned\x9c"
REVERSED = "\u202e\u2066"  # "abc" would be shown as "cba"
HOSTILE = f"a{TITLE}{CLEAR}{C1}{REVERSED}\b\r\x7fz"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("renderable", [HOSTILE, Text(HOSTILE)])
def test_a_console_prints_only_its_own_control_codes(renderable: str | Text) -> None:
    file = io.StringIO()
    Screen(file=file, force_terminal=True, highlight=False).print(renderable, style="red")
    assert not CONTROLS.search(re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()))
    assert "\x1b[31m" in file.getvalue()


def test_messages_and_json_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    message(HOSTILE)
    print_json({"text": HOSTILE})
    out, err = capsys.readouterr()
    assert not CONTROLS.search(out + err)
    assert json.loads(out) == {"text": HOSTILE}


def test_ids_errors_and_texts_of_a_job_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": HOSTILE, "prompt": HOSTILE, "answer": HOSTILE}, {"id": f"{HOSTILE}2"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run: Callable[..., Result] = lambda *a: CliRunner().invoke(leadline, list(a))  # noqa: E731
    flags = ("--execution.engine", "fake", "--domain", "text", "--strategy.n", "2")
    for done in (
        run("run", "--problems", "p.jsonl", *flags, "--out", "job"),
        run("eval", "job"),
        run("answers", "--job", "job", "--problem", HOSTILE),
        run("solve", HOSTILE, *flags, "--show-traces"),
        run("run", f"{HOSTILE}.toml"),
        run("answers", "--compare", HOSTILE, HOSTILE, "--domain", "text"),
    ):
        assert not CONTROLS.search(done.output), repr(done.output)
