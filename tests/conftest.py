"""What holds for every test.

No property test has a deadline, since no test may fail because the machine is busy. Without vLLM
(the light install) the tests that import it are not collected, and the first lines say so.
"""

from __future__ import annotations

from importlib.util import find_spec

from hypothesis import settings

settings.register_profile("leadline", deadline=None)
settings.load_profile("leadline")

_HAS_VLLM = find_spec("vllm") is not None
collect_ignore_glob = [] if _HAS_VLLM else ["engine/*", "engines/vllm/latent/*"]


def pytest_report_header() -> str:
    """Return a line on what is not collected."""
    return "" if _HAS_VLLM else "vLLM is not installed: tests that import it are not collected"
