"""Programs as answers: the last fenced block of a reply, compared as text.

The one rule: two programs are the same answer when they differ only in spaces at the ends of lines
and in blank lines at the beginning and the end. Not covered: the behaviour of a program, which the
verifier `code-tests` checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.kit.answers.code_blocks import PYTHON, last_program


@dataclass(frozen=True, slots=True)
class Code:
    """The last fenced code block, compared as text.

    A block without a language counts only if no block has one of the languages in `fences`.
    """

    fences: Annotated[
        tuple[str, ...],
        Meta(description="The languages of the blocks that count, as on the opening fence."),
    ] = PYTHON

    in_process: ClassVar[bool] = True
    expects: ClassVar[str] = "one program, bare or in a fenced block"

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the last program; of an unfinished text, only one whose block is closed."""
        program = last_program(text, finished, self.fences)
        return None if program is None or self.canonical(program) == "=" else program

    def canonical(self, answer: str) -> str:
        """Return `=` and the program without trailing spaces and outer blank lines. Complete."""
        lines = [
            line.rstrip() for line in answer.removeprefix("=").replace("\r\n", "\n").split("\n")
        ]
        return "=" + "\n".join(lines).strip("\n")

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the normal forms are the same. Fast."""
        return self.canonical(a) == self.canonical(b)

    def read_reference(self, text: str) -> str | None:
        """Return the last program in a fenced block; the whole text if it has no fence."""
        if "```" in text or "~~~" in text:
            return self.extract(text, finished=False)
        return None if self.canonical(text) == "=" else text
