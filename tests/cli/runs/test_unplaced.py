"""A run whose engine had no place for a part of itself says so: when it ends, and in its report."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.plan import registry
from orchestrator.report.page.document import read_document

REASON = "Ray has found no place for a replica that needs 0 CPU and 1 GPU"


@registry.engine("cramped")
@dataclass(frozen=True, slots=True)
class Cramped:
    """The fake engine, as if a replica had waited for a place."""

    loads_models: ClassVar[bool] = False

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[CrampedEngine]:
        yield CrampedEngine(Fake())


class CrampedEngine(FakeEngine):
    def unplaced(self) -> tuple[float, str]:
        return 90.0, REASON


def test_what_waited_for_a_place_is_in_the_summary_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs of the job count: 90 seconds each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("p.jsonl").write_text("".join(f'{{"id": "q{i}", "prompt": "{i}?"}}\n' for i in range(2)))
    command = ("run", "--problems", "p.jsonl", "--out", "job", "--execution.engine", "cramped")
    first, second = (
        CliRunner().invoke(leadline, [*command, *more]) for more in (["--limit", "1"], ["--json"])
    )
    assert "waited" in first.stdout
    assert "1 min 30 s" in first.stdout
    assert REASON in first.stdout
    assert json.loads(second.stdout)["spent"]["unplaced_seconds"] == 180.0
    [job] = read_document([Path("job")]).jobs
    assert f"waited 180 s for a place, over all runs; the last reason: {REASON}" in " ".join(
        job.overview.notes
    )
