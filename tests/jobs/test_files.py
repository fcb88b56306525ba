"""A failed write keeps the old file, and says what helps."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from orchestrator.core.errors import JournalError
from orchestrator.jobs.files import write_atomically


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space, then run"),
        (errno.EROFS, "read-only: make it writable"),
        (errno.EACCES, "make its directory writable"),
    ],
)
def test_a_write_that_fails_is_reported_with_its_own_cause_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Even if the temporary file cannot be removed either, as on a medium that became read-only."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no write")

    path = tmp_path / "results.jsonl"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(JournalError, match=f"results.jsonl: no write; .*{words}"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
