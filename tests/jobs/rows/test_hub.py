"""Data sets of the model hub, read from a server on this machine that speaks its protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", reason="the extra `remote` is not installed")
pytest.importorskip("fsspec", reason="the extra `remote` is not installed")

pytestmark = pytest.mark.slow


def row(question: str, answer: str) -> bytes:
    return json.dumps({"question": question, "answer": answer}).encode() + b"\n"


# gsm8k as it is published: one folder a configuration, one file or more a split
FILES = {
    "README.md": b"---\n",
    "main/test-00000-of-00002.jsonl": row("a?", "1"),
    "main/test-00001-of-00002.jsonl": row("b?", "2"),
    "main/train-00000-of-00001.jsonl": row("c?", "3"),
    "socratic/test-00000-of-00001.jsonl": row("d?", "4"),
}
READ = """
import sys
from orchestrator.core.errors import PlanError
from orchestrator.jobs.rows import Rows
for uri in sys.argv[1:]:
    try:
        print(" ".join(f"{r.fields['prompt']}{r.fields['answer']}" for r in Rows(uri)))
    except PlanError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers what `huggingface_hub` asks about o/d, and o/tar, which has an archive only."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a listing, or a file or a part of it."""
        path = self.path.partition("?")[0]
        _, _, file = path.partition("/datasets/o/d/resolve/main/")
        listing = path.partition("/api/datasets/o/d/tree/main")
        if file in FILES:
            self._send_file(FILES[file])
        elif path.endswith("/api/datasets/o/tar/tree/main"):
            self._send([{"type": "file", "path": "a.tar", "size": 1, "oid": "0"}])
        elif path.startswith("/api/datasets/o/tar"):
            self._send({"id": "o/tar", "sha": "0" * 40, "siblings": [{"rfilename": "a.tar"}]})
        elif listing[1]:
            folders = {name.partition("/")[0] for name in FILES if "/" in name}
            found = [{"type": "directory", "path": name, "oid": "0"} for name in sorted(folders)]
            found += [
                {"type": "file", "path": name, "size": len(data), "oid": "0"}
                for name, data in FILES.items()
            ]
            self._send(found)
        elif path.startswith("/api/datasets/o/d"):
            files = [{"rfilename": name} for name in FILES]
            self._send({"id": "o/d", "sha": "0" * 40, "siblings": files})
        else:
            self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - the name that the server calls

    def _send_file(self, data: bytes) -> None:
        headers = {"ETag": '"0"', "X-Repo-Commit": "0" * 40}
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            self._reply(200, data, headers)
            return
        first, _, last = wanted.partition("-")
        end = min(len(data), int(last or len(data)) + 1)
        place = {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"}
        self._reply(206, data[int(first) : end], headers | place)

    def _send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json", **(headers or {})}
        self._reply(status, json.dumps(value).encode(), kind)

    def _reply(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# the package, as far as it is called; an installed one is not needed, and not used
DATASETS = """
def load_dataset(id, name, *, split, revision, streaming):
    assert streaming
    yield {"question": f"{id} {name} {split} {revision}", "answer": "?"}
"""


def test_a_data_set_is_read_by_its_name_its_splits_and_its_files(
    address: str, tmp_path: Path
) -> None:
    """One whose files show no rows is read by the package `datasets`."""
    (tmp_path / "datasets.py").write_text(DATASETS)
    uris = {
        "hf://o/tar?name=main&split=dev": "o/tar main dev None?",
        "hf://o/d?name=main&split=test": "a?1 b?2",
        "hf://o/d?name=socratic&split=test": "d?4",
        "hf://datasets/o/d/main/train-00000-of-00001.jsonl": "c?3",
        "hf://datasets/o/d/main/test-*.jsonl": "a?1 b?2",
        "hf://o/d?name=main": "hf://o/d has the splits test, train; name one: hf://o/d?split=test",
        "hf://o/none": "there is no hf://o/none: FileNotFoundError: datasets/o/none "
        "(repository not found)",
    }
    settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    settings |= {"no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ, *uris],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    for line, expected in zip(done.stdout.splitlines(), uris.values(), strict=True):
        assert line.startswith(expected)
