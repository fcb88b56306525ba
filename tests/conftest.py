"""What holds for every test.

No property test has a deadline, since no test may fail because the machine is busy. A file of
engine tests alone is not imported where they do not run: without vLLM (the light install; the first
lines say so), and with `-m "not engine"`. No test finds a server of the user who runs it, and that
user's commands find none of a test.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("leadline", deadline=None)
settings.load_profile("leadline")

os.environ["LEADLINE_SERVER"] = "none"
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="leadline-tests-")

_HAS_VLLM = find_spec("vllm") is not None
_ENGINE_FILE = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.engine\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that would import vLLM for tests that do not run; it takes ten seconds."""
    wanted = _HAS_VLLM and "not engine" not in config.option.markexpr
    if wanted or not collection_path.match("test_*.py"):
        return None
    return True if _ENGINE_FILE.search(collection_path.read_text()) else None


def pytest_unconfigure() -> None:
    """Remove the folder of this process."""
    shutil.rmtree(os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


def pytest_report_header() -> str:
    """Return a line on what is not collected."""
    return "" if _HAS_VLLM else "vLLM is not installed: tests that import it are not collected"
