"""A domain whose answers are read in worker processes; in a file of its own, which they import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.plan import registry


@registry.domain("last-number")
@dataclass(frozen=True, slots=True)
class LastNumber:
    """The last number of a text; compared in the worker, too."""

    in_process: ClassVar[bool] = False

    def extract(self, text: str, finished: bool) -> str | None:
        numbers = re.findall(r"\d+", text)
        return numbers[-1] if numbers else None

    def canonical(self, answer: str) -> str:
        return answer

    def equivalent(self, a: str, b: str) -> bool:
        return int(a) == int(b)
