"""`leadline view` as a user starts it: the values of a report, only with the token, read only."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.report.page.document import read_document
from tests.report.live.viewer import Viewer, viewed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MANY = json.dumps({"tags": [["level", "1"]] * 999})
ENGINE = ("--execution.engine", "fake", "--execution.engine.answers", '["12","8","7"]')


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    rows = [
        {"id": f"q{i}", "prompt": f"{i} + 12?", "answer": "12", "level": i % 2} for i in range(12)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"id": "bad", "prompt": 3}\n'
    (folder / "p.jsonl").write_text(text)
    places = ("--problems", str(folder / "p.jsonl"), "--out", str(folder / "job"))
    strategy = ("--strategy", "sounding", "--strategy.n", "6", "--strategy.interval", "40")
    flags = ("-q", "--domain", "number", *ENGINE, "--execution.engine.n_tokens", "60")
    done = CliRunner().invoke(leadline, ["run", *places, *strategy, *flags])
    assert done.exit_code == 0, done.output
    return folder / "job"


@pytest.fixture(scope="module")
def viewer(job: Path) -> Iterator[Viewer]:
    """Serve the job, and end it as Ctrl-C does: without a word, without a remainder."""
    with viewed(job) as one:
        yield one
        one.process.send_signal(signal.SIGINT)
        out, errors = one.process.communicate(timeout=60)
        assert (one.process.returncode, out, errors) == (0, "", "Ctrl-C ends it\n")


def test_it_serves_what_a_report_of_the_job_has(viewer: Viewer, job: Path) -> None:
    """Numbers, rows and pages are those of `leadline report`, however they were read."""
    before = {path.name: path.stat().st_mtime_ns for path in job.iterdir()}
    [expected] = json.loads(msgspec.json.encode(read_document([job])))["jobs"]
    index = viewer.until_read(13)
    assert index["jobs"][0]["overview"] == {**expected["overview"], "directory": str(job)}
    rows = viewer.rows()
    for name in rows[0]:
        assert [row[name] for row in rows] == expected["table"][name], name
    for problem in expected["problems"]:
        assert viewer.get("problem", job=0, id=problem["id"]) == problem
    query: dict[str, Any] = {"outcomes": ["wrong"], "sort": "tokens", "descending": True}
    rows = viewer.rows(**query)
    assert [row["tokens"] for row in rows] == sorted((r["tokens"] for r in rows), reverse=True)
    assert {row["outcome"] for row in rows} == {"wrong"}
    around = viewer.get("neighbours", job=0, id=rows[1]["id"], query=json.dumps(query))
    assert around == [rows[0]["id"], rows[2]["id"]]
    assert {path.name: path.stat().st_mtime_ns for path in job.iterdir()} == before


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        ("", "GET", "", 403),
        ("?token=x", "GET", "", 403),
        ("?TOKEN", "POST", "", 405),
        ("?TOKEN", "GET", "evil.example", 421),
        ("api/problem?TOKEN&job=0&id=nothing", "GET", "", 404),
        ("api/problem?TOKEN&job=7&id=q1", "GET", "", 404),
        ("api/problem?TOKEN&job=-1&id=q1", "GET", "", 400),
        ("api/problems?TOKEN&job=0&query={", "GET", "", 400),
        ('api/problems?TOKEN&job=0&query={"sort":"1;DROP"}', "GET", "", 400),
        ('api/problems?TOKEN&job=0&query={"from":0,"to":9999999}', "GET", "", 400),
        (f"api/problems?TOKEN&job=0&query={MANY}", "GET", "", 400),
        ("../../../etc/passwd?TOKEN", "GET", "", 404),
    ],
)
def test_everything_else_is_refused(
    viewer: Viewer, path: str, method: str, host: str, status: int
) -> None:
    base, _, token = viewer.address.partition("?")
    path = urllib.parse.quote(path.replace("TOKEN", token), safe="?&=/-")
    request = urllib.request.Request(f"{base}{path}", method=method)
    if host:
        request.add_header("Host", host)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == status
    assert error.value.headers["content-security-policy"] == "default-src 'none'"
    error.value.close()


def test_what_is_no_job_and_a_port_in_use_are_refused(
    viewer: Viewer, job: Path, tmp_path: Path
) -> None:
    port = str(urllib.parse.urlsplit(viewer.address).port)
    for arguments, reason in (
        ([str(tmp_path)], "there is no job in"),
        ([str(job), "--port", port], "choose another with --port"),
    ):
        failed = CliRunner().invoke(leadline, ["view", *arguments])
        assert (failed.exit_code, reason in failed.stderr) == (2, True), failed.output


def test_a_journal_that_is_gone_is_named_and_another_one_is_read(job: Path, tmp_path: Path) -> None:
    """Pages stay as they were until there is a journal again, whichever it is."""
    copy = tmp_path / "job"
    shutil.copytree(job, copy)
    with viewed(copy) as viewer:
        viewer.until_read(13)
        (copy / "journal.db").unlink()
        index = viewer.until(lambda index: index["state"]["warning"] != "")
        assert "unable to open database file" in index["state"]["warning"]
        assert len(viewer.rows()) == 13
        rows = tmp_path / "p.jsonl"
        rows.write_text('{"id": "a", "prompt": "1?"}\n{"id": "b", "prompt": "2?"}\n')
        places = ("--problems", str(rows), "--out", str(copy))
        done = CliRunner().invoke(leadline, ["run", "-q", *places, *ENGINE])
        assert done.exit_code == 0, done.output
        viewer.until(lambda index: index["jobs"][0]["overview"]["n_problems"] == 2)
        assert viewer.get("index")["state"]["warning"] == ""
