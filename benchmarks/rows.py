"""Measures the memory and the time of a job over very many rows, with the fake engine.

    python benchmarks/rows.py [--rows 10000000] [--folder DIR]

Writes a Parquet file of that many questions, serves it over HTTP from a process of its own, runs
`leadline run` on its address (fsspec reads it in ranges), and reads the command's resident memory.
Then checks that every row has its result. With --answers each row has a reference answer, which the
run reads and compares.
"""

from __future__ import annotations

import argparse
import http.server
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pyarrow
from pyarrow import parquet

_N_BATCH = 100_000


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to keep files (default: temporary)")
    parser.add_argument("--answers", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="leadline-rows-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        path = folder / "rows.parquet"
        write(path, options.rows, options.answers)
        print(f"{options.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB of Parquet")
        ready = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(folder, ready), daemon=True)
        server.start()
        uri = f"http://127.0.0.1:{ready.get()}/rows.parquet"
        seconds, peak = run(uri, folder)
        server.terminate()
        n_results = check(folder / "job" / "results.jsonl", options.rows)
        print(
            f"{n_results:,} results in order, {seconds:,.0f} s, {n_results / seconds:,.0f} a "
            f"second; at most {peak / 2**20:,.0f} MiB resident"
        )
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def write(path: Path, n_rows: int, answers: bool) -> None:
    """Write the questions."""
    names = ["id", "prompt", *(["answer"] if answers else [])]
    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, n_rows, _N_BATCH):
            numbers = range(start, min(n_rows, start + _N_BATCH))
            columns = [
                [f"row-{i}" for i in numbers],
                [f"A train leaves at {i % 24}:00 and runs {i} minutes. When?" for i in numbers],
                [str(i) for i in numbers],
            ]
            file.write_table(pyarrow.table(columns[: len(names)], schema=schema))


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, or ranges of them."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Send a file's size."""
        path = Path(self.translate_path(self.path))
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        """Send a range of a file, or all of it."""
        path = Path(self.translate_path(self.path))
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        end = min(size, int(match[2]) + 1) if match and match[2] else size
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(end - start))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def serve(folder: Path, ready: multiprocessing.Queue[int]) -> None:
    """Serve a folder on a free port, whose number is put in the queue."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Ranges, directory=str(folder))
    ) as server:
        ready.put(server.server_port)
        server.serve_forever()


def run(uri: str, folder: Path) -> tuple[float, int]:
    """Return the seconds of the command, and the most memory that it had."""
    command = [
        *(sys.executable, "-m", "orchestrator", "run", "--problems", uri),
        *("--out", str(folder / "job"), "--execution.engine", "fake", "--strategy.n", "1"),
        *("--execution.window", "256", "--domain", "number", "--every", "60"),
    ]
    began = time.monotonic()
    environment = {**os.environ, "SQLITE_TMPDIR": str(folder), "TMPDIR": str(folder)}
    process = subprocess.Popen(command, env=environment)
    peak = 0
    while process.poll() is None:
        peak = max(peak, high_water(process.pid))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}")
    return time.monotonic() - began, peak


def high_water(pid: int) -> int:
    """Return the most bytes of memory that a process has had so far; 0 if it is gone."""
    try:
        match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def check(results: Path, n_rows: int) -> int:
    """Return the number of results; they must be those of all rows, in order, and answered."""
    n = 0
    with results.open() as file:
        for n, line in enumerate(file, start=1):
            row = json.loads(line)
            assert (row["id"], row["status"]) == (f"row-{n - 1}", "answered"), line
    assert n == n_rows, f"{n} results of {n_rows} rows"
    return n


if __name__ == "__main__":
    main()
