"""What tests of the shipped models share: the scripts that made them."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

TRAINING = Path(__file__).parents[2] / "examples" / "training"


@pytest.fixture(scope="module")
def training() -> Iterator[SimpleNamespace]:
    """The modules of examples/training, which are scripts and import each other by name."""
    torch = pytest.importorskip("torch")
    n_threads = torch.get_num_threads()
    # the models are so small that threads wait for each other, on a busy machine for minutes
    torch.set_num_threads(1)
    sys.path.insert(0, str(TRAINING))
    try:
        names = ("puzzles", "recipes", "packing", "evaluate", "export", "train")
        modules = {name: import_module(name) for name in names}
        yield SimpleNamespace(kinds=import_module("kinds.puzzle"), **modules)
    finally:
        sys.path.remove(str(TRAINING))
        torch.set_num_threads(n_threads)
