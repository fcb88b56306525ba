"""Which rows of a step go on thinking: the depth of each request in the batch, and where its tokens lie. Needs torch, not vllm."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """The requests of one step, in the order of the batch: request i has the tokens `starts[i]` to `starts[i + 1]` and runs to
    `depths[i]`. Shapes (n,) and (n + 1,). Its id and its prompt's length in tokens are for exit rules; () where there is none.
    """

    depths: tuple[int, ...]
    starts: tuple[int, ...]
    ids: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()

    @property
    def deepest(self) -> int:
        """How many iterations the step needs."""
        return max(self.depths, default=0)

    def going_on(self, iteration: int) -> tuple[int, ...] | None:
        """Return the requests that run `iteration` (counted from 1); None when all of them do."""
        members = tuple(i for i, depth in enumerate(self.depths) if depth >= iteration)
        return None if len(members) == len(self.depths) else members

    def tokens(self, members: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Return the places of these requests' tokens, (n_tokens,), ascending."""
        places = [place for i in members for place in range(self.starts[i], self.starts[i + 1])]
        return torch.tensor(places, dtype=torch.long, device=device)

    def token_depths(self, n_tokens: int, device: torch.device) -> torch.Tensor:
        """Return the depth of each token, (n_tokens,); 1 for the padding after the last request's."""
        depths = [depth for i, depth in enumerate(self.depths) for _ in range(self.starts[i], self.starts[i + 1])]
        return torch.tensor(depths + [1] * (n_tokens - len(depths)), dtype=torch.long, device=device)
