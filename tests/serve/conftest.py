"""The service that the tests of a module share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import PluginSpec

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package

from counting_service import ANSWERS, MODELS, Served, served


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service for a module: self-consistency with eight attempts over two models."""
    plan = Plan(
        models=MODELS,
        strategy=PluginSpec("consistency", {"n": 8}),
        domain="number",
        budget=Budget(tokens=100_000),
    )
    data: Path = tmp_path_factory.mktemp("data")
    with served(plan, data.name + str(data), answers=ANSWERS, data=data) as one:
        yield one
