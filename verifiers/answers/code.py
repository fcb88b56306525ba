"""Programs as answers: the last fenced block of a reply, compared as text.

The one rule: two programs are one when they differ only in spaces at the ends of lines and in blank
lines at the beginning and the end. What a program does is `code-tests`'s business; this domain
makes that attempts can state, group and rank programs at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.kit.answers.code_blocks import PYTHON, last_program


@dataclass(frozen=True, slots=True)
class Code:
    """The last fenced code block.

    A block without a language counts where none has one of `fences`.
    """

    fences: tuple[str, ...] = PYTHON  # the languages, as they stand behind the opening fence

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the last program; of an unfinished text, only one whose block is closed."""
        found = last_program(text, finished, self.fences)
        return None if found is None or self.canonical(found) == "=" else found

    def canonical(self, answer: str) -> str:
        """Return `=` and the program without trailing spaces and outer blank lines. Complete."""
        lines = [
            line.rstrip() for line in answer.removeprefix("=").replace("\r\n", "\n").split("\n")
        ]
        return "=" + "\n".join(lines).strip("\n")

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the normal forms are the same. Fast."""
        return self.canonical(a) == self.canonical(b)
