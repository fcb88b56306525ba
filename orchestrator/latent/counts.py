"""How many iterations a request's tokens took, where an exit rule decides: counted in vLLM's worker, charged in ours. Standard library."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

_KEPT = 100_000  # requests that nobody asks for: failed ones, and those whose consumer was cancelled


@dataclass(slots=True)
class Counts:
    """Tokens run and iterations they took: those of the prompt, and those that predicted one of the request's own tokens."""

    prompt_tokens: int = 0
    prompt_iterations: int = 0
    tokens: int = 0
    iterations: int = 0

    def add(self, prompt: Sequence[int], own: Sequence[int]) -> None:
        """Count one step's tokens by the iterations of each."""
        self.prompt_tokens += len(prompt)
        self.prompt_iterations += sum(prompt)
        self.tokens += len(own)
        self.iterations += sum(own)

    @property
    def mean_depth(self) -> float:
        """Iterations per generated token: what a trace reports."""
        return self.iterations / self.tokens

    @property
    def mean_of_all(self) -> float:
        """Iterations per token, the prompt's included: what a trace is charged."""
        return (self.prompt_iterations + self.iterations) / (self.prompt_tokens + self.tokens)


class Ledger:
    """Counts by request, until they are taken."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, Counts] = OrderedDict()

    def note(self, request: str, prompt: Sequence[int], own: Sequence[int]) -> None:
        """Count one step of a request."""
        self._counts.setdefault(request, Counts()).add(prompt, own)
        self._counts.move_to_end(request)
        if len(self._counts) > _KEPT:
            self._counts.popitem(last=False)

    def take(self, request: str) -> Counts | None:
        """Return what a request has used and forget it; None when nothing was noted."""
        return self._counts.pop(request, None)
