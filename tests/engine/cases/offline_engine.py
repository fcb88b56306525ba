"""vLLM's offline engine in this process, many times over."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def new_engine(path: Path, overrides: Mapping[str, Any], **arguments: Any) -> Any:
    """Return a started engine for a folder; every one but the process's first starts at once."""
    from vllm import LLM
    from vllm.platforms import current_platform

    engine = LLM(str(path), hf_overrides=overrides, **arguments)
    # At every start and end vLLM walks the whole heap several times, and every module for its
    # kernels: some four seconds an engine, where one time is enough for all.
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    gc.freeze = gc.unfreeze = _nothing  # type: ignore[assignment]  # vLLM calls both
    current_platform.register_triton_kernel_overrides = _nothing
    return engine


def end(engines: list[Any]) -> None:
    """Empty the list of the one engine and end it.

    The end of one that is collected later would take the groups of the next one with it.
    """
    engines.clear()
    gc.collect()


def _nothing() -> None: ...
