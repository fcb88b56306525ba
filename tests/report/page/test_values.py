"""The values of a report's pages: what became of attempts, the vote, and the size of the file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.core.values import Trace
from orchestrator.core.votes import AttemptState
from orchestrator.report.page.document import Document, read_document
from orchestrator.report.page.file import report_file
from orchestrator.report.page.problem import ProblemPage
from orchestrator.report.page.strip import strip_of
from orchestrator.report.page.texts import Text, cut_text
from orchestrator.report.scored import read_scored
from tests.report.page.conftest import Run

ROOT = Path(__file__).parents[3]
_ENDS = {
    AttemptState.DROPPED: "dropped",
    AttemptState.CANCELLED: "cancelled",
    AttemptState.FAILED: "failed",
}


@pytest.fixture(scope="module")
def document(sounding: Path) -> Document:
    return read_document([sounding])


def test_a_lane_ends_as_its_attempt_did_and_names_the_rule(document: Document) -> None:
    """ "What was dropped, by which rule, at which token" is read from the replayed session."""
    [job] = document.jobs
    reasons = set()
    for page in job.problems:
        lanes = {lane.attempt: lane for lane in page.lanes}
        for attempt in page.attempts:
            lane = lanes[attempt.attempt]
            kinds = {mark.kind for mark in lane.marks}
            for state, kind in _ENDS.items():
                assert (attempt.state == state) == (kind in kinds), (page.id, attempt.attempt)
            # tokens of the lane are those that the attempt was charged for
            assert sum(s.end - s.start for s in lane.segments) == attempt.tokens
            reasons |= {mark.text for mark in lane.marks if mark.kind == "dropped"}
        assert not page.replay_note
    assert "its last 2 probes did not give the leading answer" in reasons
    assert all("gave no reason" not in reason for reason in reasons)


@pytest.mark.parametrize("name", ["sounding", "steps"])
def test_the_last_vote_above_the_race_is_the_result(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The posterior would mislead if its end were not the vote that was counted.

    In `steps` an attempt weighs nothing before the request that scores it has ended.
    """
    job = request.getfixturevalue(name)
    results = {p.problem.id: p.result for p in read_scored(job).problems}
    for page in read_document([job]).jobs[0].problems:
        result = results[page.id]
        assert result is not None
        weights = {c.answer.key: pytest.approx(c.weight) for c in result.clusters}
        assert page.vote[-1].weights == weights
        assert list(page.vote) == sorted(page.vote, key=lambda point: point.at)


def test_what_arrived_of_problems_that_are_not_done_is_counted(
    sounding: Path, tmp_path: Path
) -> None:
    """Of a job that runs, its traces and tokens so far are shown, not only those of results."""
    [whole] = read_document([sounding]).jobs
    shutil.copytree(sounding, tmp_path / "job")
    with sqlite3.connect(tmp_path / "job" / "journal.db") as db:
        db.execute("DELETE FROM results WHERE problem IN ('q1', 'q5')")
    db.close()
    [partly] = read_document([tmp_path / "job"]).jobs
    assert partly.overview.n_by_outcome["open"] == 2
    for name in ("n_traces", "n_tokens"):
        assert getattr(partly.overview, name) == getattr(whole.overview, name) > 0
    assert whole.overview.n_traces == whole.overview.report.n_traces
    assert partly.overview.report.n_traces < whole.overview.n_traces
    tokens = [dict(zip(one.table.id, one.table.tokens, strict=True)) for one in (whole, partly)]
    assert tokens[0] == tokens[1]
    pages = {page.id: page for page in partly.problems}
    assert sum(usage.output_tokens for usage in pages["q1"].usage.values()) == tokens[0]["q1"]


def test_a_continuation_begins_where_the_trace_that_caused_it_ended(document: Document) -> None:
    """The axis is the critical path: no stretch begins before the one that it continues ends."""
    for page in document.jobs[0].problems:
        for lane in page.lanes:
            for before, after in zip(lane.segments, lane.segments[1:], strict=False):
                assert after.start >= before.end


def test_clusters_have_founders_and_dropped_members_answer_through_them(run: Run) -> None:
    """DeepPrune's clusters are notes of its strategy; the first member founded each."""
    flags = ("--strategy.n", "6", "--strategy.n_words", "0", "--strategy.prefix_tokens", "30")
    job = run("deepprune", "--strategy", "deepprune", *flags)
    pages: tuple[ProblemPage, ...] = read_document([job]).jobs[0].problems
    for page in pages:
        members = [m.trace for group in page.groups for m in group.members]
        assert len(members) == len(set(members)) > 0
        assert all(group.founder == group.members[0].trace for group in page.groups)
        assert all(group.prefix.text for group in page.groups)


def test_a_dropped_attempt_without_an_answer_keeps_the_vote_of_its_heir(run: Run) -> None:
    """No member of these clusters is known to have come to an answer, so the vote is the same."""
    flags = ("--strategy.n", "8", "--strategy.n_words", "0", "--strategy.prefix_tokens", "30")
    alike = (
        "--strategy.keep",
        "every",
        "--strategy.similarity",
        "lexical",
        "--strategy.tau",
        "0.1",
    )
    job = run("heirs", "--strategy", "deepprune", *flags, *alike)
    found = [page.without_drops for page in read_document([job]).jobs[0].problems]
    assert any(found)
    assert all(not one.assumed and not one.changed and one.n_unknown == 0 for one in found if one)


def test_an_heir_is_named_as_the_attempt_that_the_page_shows(run: Run) -> None:
    """A founder's first trace has another number than its attempt, which nobody would find."""
    sizes = ("--strategy.n", "8", "--strategy.n_words", "0", "--strategy.prefix_tokens", "30")
    alike = ("--strategy.keep", "every", "--strategy.similarity", "lexical")
    job = run("named", "--strategy", "deepprune", *sizes, *alike, "--strategy.tau", "0.1")
    n_heirs = 0
    for page in read_document([job]).jobs[0].problems:
        attempts = {one.attempt for one in page.attempts}
        texts = [mark.text for lane in page.lanes for mark in lane.marks if mark.kind == "dropped"]
        heirs = {int(n) for text in texts for n in re.findall(r"it votes with attempt (\d+)", text)}
        assert heirs <= attempts
        n_heirs += len(heirs)
    assert n_heirs


def test_what_was_lost_to_reading_to_length_and_to_the_vote_are_told_apart(run: Run) -> None:
    """A text that was cut before its answer needs more tokens, one that ended without another form.

    "a dozen" is no number; of the attempts that take 60 to 260 tokens, 100 are allowed.
    """
    flags = ("--strategy.n", "6", "--sampling.max_new_tokens", "100")
    job = run("unread", *flags, answers='["12","a dozen","7"]')
    [page] = read_document([job]).jobs
    states = {p.id: [a.state for a in p.attempts] for p in page.problems}
    lost = {p.id for p in page.problems if p.outcome in ("wrong", "abstained")}
    n_unread = sum("abstained" in states[id] for id in lost)
    n_cut_off = sum("cut off" in states[id] for id in lost)
    found = page.overview
    assert (found.n_lost_to_reading, found.n_lost_to_length) == (n_unread, n_cut_off)
    assert 0 < n_unread < n_cut_off
    outvoted = {p.id for p in page.problems if any(c.right for c in p.classes)} & lost
    assert found.n_outvoted == len(outvoted) > 0


def test_a_failure_counts_the_problems_in_which_it_occurred(run: Run) -> None:
    """A problem fails with all its attempts, or has an answer all the same: one kind of error."""
    failing = ("--execution.engine.failure_rate", "0.5", "--supervision.max_failed", "1.0")
    [job] = read_document([run("failing", "--strategy.n", "2", *failing)]).jobs
    [kind] = job.overview.failures
    assert 0 < job.overview.n_by_outcome["failed"] < len(job.problems)
    failed = [[a for a in page.attempts if a.state == "failed"] for page in job.problems]
    assert kind.n_attempts == sum(map(len, failed))
    assert kind.n_problems == sum(map(bool, failed)) < kind.n_attempts


def blocks(text: str) -> dict[str, Any]:
    """Return the values in a report, by the names of their blocks."""
    found = re.findall(r'<script type="application/gzip" id="([\w.]+)">([^<]*)</script>', text)
    return {name: json.loads(gzip.decompress(base64.b64decode(data))) for name, data in found}


def test_a_report_is_one_file_whose_policy_allows_its_own_program_only(sounding: Path) -> None:
    """The hash in the policy is that of the program, and nothing else could run or be fetched."""
    done = CliRunner().invoke(leadline, ["report", str(sounding)])
    assert done.exit_code == 0, done.output
    text = (sounding / "report.html").read_text()
    [program] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    found = blocks(text)
    assert len(found["t0"]["id"]) == 12 == sum(len(v) for k, v in found.items() if k[0] == "p")


@pytest.mark.parametrize(
    ("command", "flags"), [("run", ()), ("sweep", ("--depths", "1,2", "--widths", "1"))]
)
def test_a_run_can_end_with_its_report(run: Run, command: str, flags: tuple[str, ...]) -> None:
    """`make run` ends so."""
    out = run(f"{command}-reported", "--strategy.n", "2", *flags, "--report", command=command)
    assert "t0" in blocks((out / "report.html").read_text())


def test_a_report_below_its_limit_says_what_it_left_out(document: Document) -> None:
    """Texts are cut in their middle until the file fits, and every missing character is counted."""
    whole = report_file(document, "t", 50_000_000, ["show"])
    limit = len(whole.text.encode()) - 100
    small = report_file(document, "t", limit, ["show"])
    assert whole.n_left_out == 0
    assert 0 < len(small.text.encode()) <= limit
    pages = [page for name, one in blocks(small.text).items() if name[0] == "p" for page in one]
    lost = sum(p["question"]["n_left_out"] for p in pages)
    lost += sum(
        a[part]["n_left_out"]
        for p in pages
        for a in p["attempts"]
        for part in ("thinking", "reply")
    )
    assert small.n_left_out == lost > 0


@pytest.mark.parametrize(
    ("n", "kept"), [(0, Text("abcdefghij")), (9, Text("abcdefghij")), (4, Text("abc", 6, "j"))]
)
def test_a_text_is_cut_in_its_middle(n: int, kept: Text) -> None:
    """The beginning shows the approach, the end the answer; one longer by an eighth stays whole."""
    assert cut_text("abcdefghij", n) == kept


def test_what_is_no_job_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    """A wrong file must not end in a traceback."""
    wrong = tmp_path / "x.json"
    wrong.write_text("{}")
    done = CliRunner().invoke(leadline, ["report", str(wrong), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 2
    assert (
        "neither the directory of a job or sweep nor the output of `leadline replay" in done.output
    )


@pytest.mark.slow
def check_bundle(built: Path) -> None:
    bundle = ROOT / "orchestrator/report/page/bundle"
    for name in ("app.js", "app.css"):
        assert (built / name).read_bytes() == (bundle / name).read_bytes(), f"{name}: make web"


def test_the_bundle_is_what_the_sources_build(tmp_path: Path) -> None:
    """Who changes a page and forgets `make web` would ship the old one."""
    web = ROOT / "web"
    if not shutil.which("node") or not (web / "node_modules/esbuild").is_dir():
        pytest.skip("web/node_modules is missing: make web")
    subprocess.run(["node", "build.mjs", str(tmp_path)], cwd=web, check=True)
    check_bundle(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_clean_checkout_builds_the_bundle(tmp_path: Path) -> None:
    """`make web` gives the committed bytes to whoever has npm, from the lock file alone."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    web = tmp_path / "web"
    shutil.copytree(ROOT / "web", web, ignore=shutil.ignore_patterns("node_modules"))
    npm = ["npm", "--no-audit", "--no-fund", "--fetch-retries=1"]
    done = subprocess.run([*npm, "ci"], cwd=web, capture_output=True, text=True)
    if done.returncode and re.search("ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN", done.stderr):
        pytest.skip("there is no network to fetch the packages from")
    assert done.returncode == 0, done.stderr
    for script in ("check", "build"):
        subprocess.run(["npm", "run", "--silent", script], cwd=web, check=True)
    check_bundle(tmp_path / "orchestrator/report/page/bundle")


def test_the_depth_of_each_token_is_a_strip() -> None:
    """Of a long attempt the means of 400 stretches; none where a trace of the attempt has none."""
    first, second = Trace(0, token_ids=(1, 2), depths=(4, 2)), Trace(1, token_ids=(3,), depths=(8,))
    found = strip_of([first, second])
    assert found is not None
    assert found.depths == (4, 2, 8)
    long = strip_of([Trace(0, token_ids=(1,) * 800, depths=(1, 4) * 400)])
    assert long is not None
    assert long.depths == (2.5,) * 400
    other = strip_of([first, Trace(1, token_ids=(3,), metrics={"mean_logprob": -1.0})])
    assert other is not None
    assert other.depths == ()
    assert strip_of([Trace(0)]) is None
