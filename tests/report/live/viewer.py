"""`leadline view` as a process, and what a page asks of it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Viewer:
    """A running server with the address that it printed."""

    process: subprocess.Popen[str]
    address: str

    def url(self, name: str, **values: object) -> str:
        base, _, token = self.address.partition("?")
        return f"{base}api/{name}?{token}&{urllib.parse.urlencode(values)}"

    def get(self, name: str, **values: object) -> Any:
        with urllib.request.urlopen(self.url(name, **values)) as reply:
            return json.load(reply)

    def rows(self, job: int = 0, **query: object) -> Any:
        text = json.dumps({"from": 0, "to": 20, **query})
        return self.get("problems", job=job, query=text)["rows"]

    def until(self, holds: Callable[[Any], bool]) -> Any:
        """Return the index once this holds of it; the stream says when to look again."""
        with urllib.request.urlopen(self.url("events")) as stream:
            while not holds(index := self.get("index")):
                while not stream.readline().startswith(b"data:"):
                    pass
            return index

    def until_read(self, n: int) -> Any:
        """Return the index once each of the `n` problems of the first job has a result."""

        def holds(index: Any) -> bool:
            one = index["jobs"][0]["overview"]
            return bool(one["n_problems"] == n and not one["n_by_outcome"].get("open"))

        return self.until(holds)


@contextmanager
def viewed(place: Path, *arguments: str) -> Iterator[Viewer]:
    """Serve a place; it is killed at the end of the block if it has not ended by then."""
    command = [sys.executable, "-m", "orchestrator", "view", str(place), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield Viewer(process, process.stdout.readline().strip())
        finally:
            process.kill()
