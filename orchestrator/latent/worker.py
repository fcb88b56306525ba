"""What vLLM's workers can be asked for beside their own methods (its `worker_extension_cls`)."""

from __future__ import annotations

import dataclasses
from typing import Any


class DepthCounts:
    """Mixed into vLLM's worker class: its one method is called by name through `collective_rpc`."""

    model_runner: Any

    def take_depth_counts(self, request: str) -> tuple[int, int, int, int] | None:
        """Return the fields of `counts.Counts` for a request that has ended, once; None when it has run nothing.

        A step is counted before its output leaves the worker, so whoever holds a request's last output finds all of its steps here.
        """
        counts = self.model_runner.get_model().ledger.take(request)
        return None if counts is None else dataclasses.astuple(counts)
