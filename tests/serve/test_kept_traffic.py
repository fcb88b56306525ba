"""`--journal DIR`: served requests are a job that other commands read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from counting_service import MESSAGES, MODELS, served

from orchestrator.cli.main import leadline
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.finished import read_finished
from tests.report.live.viewer import viewed

PLAN = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 4}), domain="number")


@pytest.mark.slow
def test_served_requests_are_kept_over_restarts_and_shown_as_a_job(tmp_path: Path) -> None:
    """Two servers, one after the other, keep three requests, one with a strategy of its own."""
    journal, ids = tmp_path / "kept", []
    for run, names in enumerate((["small", "large@2+consistency?n=2"], ["small"])):
        with served(PLAN, f"{tmp_path} {run}", journal=journal) as one:
            create = one.client().chat.completions.create
            ids += [create(model=name, messages=MESSAGES).id for name in names]
    job = read_finished(journal)
    assert [result.problem_id for result in job.results_in_order()] == ids
    assert [len(job.pools[id]) for id in ids] == [4, 2, 4]
    assert {(t.model, t.depth) for t in job.pools[ids[1]]} == {("large", 2)}
    shown = CliRunner().invoke(leadline, ["show", str(journal), ids[1]])
    assert shown.exit_code == 0, shown.output
    assert "How many days" in shown.output
    rows = [json.loads(line) for line in (journal / "requests.jsonl").read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ids


@pytest.mark.slow
def test_kept_requests_are_viewed_while_the_service_runs(tmp_path: Path) -> None:
    """Requests that come after the viewer began are there with their questions, too."""
    journal = tmp_path / "kept"
    with served(PLAN, str(tmp_path), journal=journal) as one:
        create = one.client().chat.completions.create
        ids = [create(model="small", messages=MESSAGES).id]
        with viewed(journal) as viewer:
            viewer.until_read(1)
            ids += [create(model="small", messages=MESSAGES).id for _ in range(2)]
            index = viewer.until_read(3)
            assert index["state"] == {"warning": "", "is_running": True}
            rows = viewer.rows()
    assert [row["id"] for row in rows] == ids
    assert {row["question"] for row in rows} == {"How many days has a week?"}
