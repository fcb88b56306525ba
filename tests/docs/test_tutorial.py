"""docs/tutorial.md, followed from its first command to its last, against a server on a real socket.

The server knows every answer but one, and adds a wrong one now and then.
"""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
BLOCKS = dict(re.findall(r"```(json|toml)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [shlex.split(line) for line in re.findall(r"^leadline .*", PAGE, re.MULTILINE)]
KNOWN = {"A pen": "12", "Ana has": "9", "Six shelves": "48", "A train": "125"}  # the last is wrong


class Server(ThreadingHTTPServer):
    """A model called my-model; `asked` counts its requests by question."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [{"id": "my-model"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = next(
            start for start in KNOWN if body["messages"][0]["content"].startswith(start)
        )
        self.server.asked[question] += 1
        answer = KNOWN[question] if body["seed"] % 5 else "7"
        choice = {
            "index": 0,
            "delta": {"content": f"Step by step. The answer is {answer}."},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
        events = [{"choices": [choice]}, {"choices": [], "usage": usage}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self._send("text/event-stream", "".join(lines) + "data: [DONE]\n\n")

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_step_of_the_tutorial_does_what_it_says(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text(BLOCKS["json"])
    plan = BLOCKS["toml"].replace("127.0.0.1:8000", f"127.0.0.1:{server.server_address[1]}")
    Path("plan.toml").write_text(plan)
    said, requests = [], []
    for command in COMMANDS:
        done = CliRunner().invoke(leadline, command[1:])
        assert done.exit_code == 0, (command, done.output)
        said.append(done.output)
        requests.append(server.asked.total())
    assert requests == [0, 32, 32, 32, 64, 128, 128, 128, 128]
    dry, ran, wrong, one, grown, hot, compared, by_topic, exported = said
    assert "32" in dry
    assert "75.0%" in ran
    assert "train" in wrong
    assert "pens" not in wrong
    assert one.count("The answer is") >= 8
    assert "75.0%" in grown
    assert "75.0%" in hot
    assert "0.0" in compared
    assert [line.strip() for line in compared.splitlines() if " -> " in line] == [
        "sampling.temperature: 0.7 -> 1.0"  # one thing is changed, as its heading promises
    ]
    assert "time" in by_topic
    assert "attempts.csv" in exported
