"""Which engine a command would start here: what a running one must agree with to take its place.

The one rule: all that may change what an engine computes is part of it, and where there is doubt,
engines differ; a command that finds none starts its own. Not covered: where engines are found
(`sockets`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

from orchestrator.core.plan import Plan
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import plan_document
from orchestrator.serve.sharing.wire import engine_digest

# beginnings of the variables that say where an engine runs, or what a hub name means to it
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS", "VLLM_"),
    *("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE"),
)


def engine_identity(plan: Plan, execution: Execution) -> str:
    """Return 16 hex digits that name the engine of a plan; "" where sharing it saves nothing.

    They are of what `engine_digest` is of, of the default model, this installation, variables, and
    the files that models and options name, as they are now.
    """
    factory = registry.load("engines", execution.engine)
    if not getattr(factory, "loads_models", True) or getattr(factory, "is_remote", False):
        return ""
    document = plan_document(plan, execution)
    texts = [*_texts(document["models"]), *_texts(execution.engine.options)]
    variables = sorted(item for item in os.environ.items() if item[0].startswith(_VARIABLES))
    files = sorted(_files(text) for text in texts if text)
    own = (engine_digest(plan, execution), [*plan.models], sys.prefix, variables, files)
    return blake2b(repr(own).encode(), digest_size=8).hexdigest()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _files(text: str) -> list[tuple[str, int, int]]:
    """Return the files at the path that a text may be, or in its folder: sizes and times."""
    try:
        path = Path(os.path.expanduser(text))
        entries = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(entry, entry.stat()) for entry in entries if entry.is_file()]
    except (OSError, ValueError):  # a text that is no path, or that may not be read
        return []
    return [(os.path.realpath(path), state.st_size, state.st_mtime_ns) for path, state in states]
